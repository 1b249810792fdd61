"""Compare merge methods and alphas on real experts and texts, merged with the real command line."""
