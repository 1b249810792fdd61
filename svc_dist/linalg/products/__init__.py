"""Decompositions made of matrix products alone, which a GPU computes far faster than anything else."""
