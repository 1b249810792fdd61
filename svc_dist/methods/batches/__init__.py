"""Many small matrices of one shape, merged together on a device: the same mathematics with a batch dimension."""
