"""Pages of local files: brought into the page cache before they are needed."""
