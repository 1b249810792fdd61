"""Spectral linear algebra: matrices in, decompositions out. Knows no task deltas."""
