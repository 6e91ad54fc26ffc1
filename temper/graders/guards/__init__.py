"""Open guard models, one file per family: how each is asked, and how its verdict is read. See docs/guards.md for the sources."""
