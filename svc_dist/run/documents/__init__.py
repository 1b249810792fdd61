"""Several documents as one run, in one output."""
