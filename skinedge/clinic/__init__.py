"""The offline workstation: one page, one API, one model, one log; nothing of it leaves the machine."""
