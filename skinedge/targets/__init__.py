"""One file per target, writing and opening its bundle; see ``_contract``."""
