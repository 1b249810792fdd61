"""The time that a run takes: rates of machines, measured or estimated, and the simulation of a plan on them."""
