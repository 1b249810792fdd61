"""The sections of a page about a merge or an inspection: each makes HTML, and draws what it shows itself."""
