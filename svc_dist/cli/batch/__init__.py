"""``svc-dist batch``."""
