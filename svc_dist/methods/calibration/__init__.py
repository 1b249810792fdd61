"""Calibrations of a merged matrix, on top of any method."""
