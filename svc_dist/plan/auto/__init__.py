"""The choice of a recipe with ``auto``, made when the merge is planned, from some rows of the experts' matrices."""
