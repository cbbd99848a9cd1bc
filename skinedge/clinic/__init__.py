"""The offline workstation: photograph in, reasoning out, nothing leaves the room."""
