"""Several merges as one run: each a stage, in one output."""
