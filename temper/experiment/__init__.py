"""One recipe over many seeds: run them, put their rows together, say which predictions held."""
