"""The mathematics: task deltas in, merged deltas out."""
