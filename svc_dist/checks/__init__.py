"""Checks of models, runs and machines. They never merge."""
