"""Published attacks on a suite's harmful prompts, to measure how well a model's safety holds; one file a family."""
