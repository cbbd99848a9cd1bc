"""Making releases: recipes, and the matrix of bundles made from them.  Run, not imported."""
