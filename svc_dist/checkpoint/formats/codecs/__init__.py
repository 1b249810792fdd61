"""The arithmetic of quantised formats: how rows of a matrix are read from codes and written as them."""
