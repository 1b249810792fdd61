"""What a merge tells other programs about its result: commands, a request, metrics."""
