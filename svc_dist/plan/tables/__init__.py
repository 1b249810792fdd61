"""How a plan of a hundred thousand tensors is held and written."""
