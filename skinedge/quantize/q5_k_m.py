"""Q5_K_M: 5-bit super-blocks of 256 with scales and minima, and Q6_K where errors hurt more."""

from __future__ import annotations

from skinedge.quantize._llama_mix import Mix, more_bits

TARGETS = ("gguf",)
MIX = Mix("q5_k", file_type=17, raised="q6_k", value=more_bits, down=more_bits)
