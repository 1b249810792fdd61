"""A unit on its way through read, compute and write, beside the other units of its process."""
