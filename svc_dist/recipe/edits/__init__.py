"""What changes the data of a recipe before it is checked."""
