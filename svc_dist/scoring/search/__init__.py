"""A search for the values of a recipe with the best score: many merges, few passes over the experts."""
