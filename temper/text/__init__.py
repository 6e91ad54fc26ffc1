"""Pure functions of strings: split, outcome, language, readability, repetition. No model, no file, no state."""
