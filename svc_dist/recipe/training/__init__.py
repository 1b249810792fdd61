"""Checkpoints of one training run as the models of a merge."""
