"""Models of a hub: repositories read over HTTP, and the copies of them in the local cache."""
