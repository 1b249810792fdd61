"""mergekit's recipes: keys and parameters that mean something else there, or nothing."""
