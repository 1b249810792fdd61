"""Writing a model range by range, on each kind of storage."""
