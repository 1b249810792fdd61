"""A merge that runs again and again: only when something changed, each time in an output of its own."""
