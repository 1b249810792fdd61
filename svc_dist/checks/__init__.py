"""Looking at models and machines, never merging."""
