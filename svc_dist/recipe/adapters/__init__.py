"""Recipes that write adapters."""
