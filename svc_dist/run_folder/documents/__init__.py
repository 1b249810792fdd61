"""What a run of several documents records of them."""
