"""Q8_0: blocks of 32 values as int8 under one 16-bit scale (8.5 bits per weight), the safe choice."""

from __future__ import annotations

from skinedge.quantize._llama_mix import Mix

TARGETS = ("gguf",)
MIX = Mix("q8_0", file_type=7)
