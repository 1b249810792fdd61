"""One start of a run: its id, what it records for those who look on, and what changed since an earlier one."""
