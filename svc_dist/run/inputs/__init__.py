"""The mapped inputs of a unit, as tensors."""
