"""Merging state dicts in memory: the plan and the units of a merge of files, without files."""
