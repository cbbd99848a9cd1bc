"""One page about measurements: what ran where, how fast, against which ceiling, and what it cost in quality.

``documents`` reads the files, ``figures`` computes from them, ``sections`` arranges what the page shows, and ``page`` writes it.
"""
