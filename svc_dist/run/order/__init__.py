"""The order in which units start."""
