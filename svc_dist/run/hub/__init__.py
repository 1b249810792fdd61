"""A merge whose output is a hub: made in a staging folder, then uploaded."""
