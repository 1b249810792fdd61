"""What becomes of each tensor, and why."""
