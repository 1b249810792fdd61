"""Several merges in one command, one after the other."""
