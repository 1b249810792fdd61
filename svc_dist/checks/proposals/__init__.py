"""Recipes that svc_dist proposes, and what planning says about them."""
