"""The GPUs that units compute on: what is there, how fast it is, and what happens where one fails."""
