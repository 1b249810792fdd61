"""The vocabulary of the results: by which tokens rows are matched, and where each row comes from."""
