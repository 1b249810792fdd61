"""From a resolved recipe and headers to a plan."""
