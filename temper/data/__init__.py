"""Rows in, Examples out. Loaders and overlap checks; no model and no grader."""
