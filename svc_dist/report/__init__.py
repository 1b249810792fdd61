"""What a merge did to its experts' directions: diagnosis, plots, a page."""
