"""One page about measurements: what ran where, how fast, against which ceiling, and what it cost in quality.

``documents`` reads the files, ``figures`` computes from them, ``sections`` arranges what the page shows, ``pareto``
draws quality beside speed, and ``page`` writes it.  ``certificate`` is the page of a bundle's certificate.
"""
