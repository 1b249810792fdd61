"""The models and the layers that a rule is about."""
