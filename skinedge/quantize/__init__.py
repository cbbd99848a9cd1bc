"""Weight schemes, one file each; the file name is the scheme's name."""
