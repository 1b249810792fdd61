"""Recipes as people publish them: a set of them, and what becomes of each."""
