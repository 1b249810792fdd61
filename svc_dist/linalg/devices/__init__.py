"""What the libraries of a GPU cannot do, and how they say so."""
