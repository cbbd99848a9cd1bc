"""SynthDerm: skin photographs with findings, diagnosis and narrative, all drawn by a program."""
