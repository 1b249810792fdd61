"""Running the units of an adapter: the pairs of factors that they write."""
