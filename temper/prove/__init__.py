"""Measure any sampler honestly: evaluate (rows to disk), metrics (rates from rows), compare (arms on the same prompts)."""
