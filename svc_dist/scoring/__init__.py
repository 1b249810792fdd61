"""Scores of merged models, by the user's own command: after a merge, and in a search."""
