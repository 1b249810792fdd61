"""Receipts in segments: what a start reads in place of a file for each unit."""
