"""Merged deltas as pairs of factors, for adapters."""
