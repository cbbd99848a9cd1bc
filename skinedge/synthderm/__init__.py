"""SynthDerm: skin photographs with findings, diagnosis and narrative, drawn by a program; the stand-in for data that may not be shared."""
