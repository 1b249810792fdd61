"""From a person's YAML to what it asks for."""
