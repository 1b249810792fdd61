"""Merge methods that look at whole matrices."""
