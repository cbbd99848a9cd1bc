"""A folder that a device without a network installs and runs: bundle, wheels, golden cases, and one file to carry back."""
