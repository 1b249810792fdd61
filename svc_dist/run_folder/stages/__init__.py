"""What a run of several merges keeps of its stages."""
