"""One start of a run: its id, and what it records for those who look on."""
