"""What `verify` looks at in a written model, one module a subject."""
