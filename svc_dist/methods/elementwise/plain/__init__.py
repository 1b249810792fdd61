"""Flat entries in the memory of the CPU: the common case, with few calls for each chunk."""
