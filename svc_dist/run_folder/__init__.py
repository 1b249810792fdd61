"""What a run leaves in its output: the interface between a run and the tools."""
