"""How results and progress show themselves in a notebook."""
