"""What a unit writes of each tensor: the merged values, and their codes."""
