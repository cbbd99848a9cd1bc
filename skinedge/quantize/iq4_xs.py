"""IQ4_XS: 4-bit indices into a fixed non-linear table (4.25 bits per weight); slow to write, the smallest here."""

from __future__ import annotations

from skinedge.quantize._llama_mix import Mix, first_eighth, shared_heads

TARGETS = ("gguf",)
MIX = Mix("iq4_xs", file_type=30, raised="q5_k", value=shared_heads, down=first_eighth, blind=True)
