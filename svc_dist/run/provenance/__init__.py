"""What a merged model says of how it was made: its card and its recipe, without paths of this machine."""
