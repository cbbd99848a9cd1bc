"""Install, update and remove the workstation of a kit; travels in it as ``workstation.pyz`` and needs nothing but Python.

``main`` is the command line, ``change`` and ``leave`` what it does.  A release is a bundle, an environment and options; which
one runs, one small file says (``pointer``), and only one that has answered is written there as the current one.
"""
