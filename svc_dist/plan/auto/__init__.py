"""The choice of a recipe with ``auto``, made when the merge is planned, and a sample of the experts."""
