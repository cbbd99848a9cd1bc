"""Q6_K: 6-bit values in super-blocks of 256 with 16 int8 scales (6.56 bits per weight) for all matrices."""

from __future__ import annotations

from skinedge.quantize._llama_mix import Mix

TARGETS = ("gguf",)
MIX = Mix("q6_k", file_type=18)
