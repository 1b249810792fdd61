"""Quantised models in a plan: what is merged of them, and where its bytes lie."""
