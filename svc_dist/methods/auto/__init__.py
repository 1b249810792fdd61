"""The choice that ``auto`` makes: what it measures, the table of what follows from it, and the choice itself."""
