"""What a recipe says of scores: the command that evaluates its model."""
