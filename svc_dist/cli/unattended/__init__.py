"""Options of merges that nobody watches."""
