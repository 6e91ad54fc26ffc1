"""Opinions about completions. Each grader is one file; models are handed in, never loaded here."""
