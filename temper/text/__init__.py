"""Pure functions of strings: split, outcome, language spans and mixing, readability, repetition, markup; no file of ours."""
