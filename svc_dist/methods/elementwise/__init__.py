"""Merge methods that look at each entry by itself."""
