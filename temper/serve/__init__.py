"""The guarded gateway: what is said to a model and by it passes filters before anybody reads it. Needs no torch."""
