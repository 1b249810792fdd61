"""Recipes that svc_dist writes, and what it says about those that people write."""
