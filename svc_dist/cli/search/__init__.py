"""``svc-dist search``."""
