"""Is the reasoning good?  Cases, judges, scores and benchmarks, for any model that answers."""
