"""How the command line explains itself: groups of commands and options, flags of mergekit."""
