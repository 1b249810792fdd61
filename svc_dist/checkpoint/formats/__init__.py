"""Quantised storage: which formats there are, and which tensors of a checkpoint each of them explains."""
