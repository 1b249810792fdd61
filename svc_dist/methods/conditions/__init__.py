"""What decides, when the deltas of a tensor are there, whether they are merged."""
