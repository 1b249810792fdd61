"""What a command writes: words, JSON, log lines."""
