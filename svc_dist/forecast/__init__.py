"""What a run will take: rates of machines, measured or estimated, and the simulation of a plan on them."""
