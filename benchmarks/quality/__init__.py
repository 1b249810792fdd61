"""Which method merges well, and with which alpha: real experts and texts, merged by the real command line."""
