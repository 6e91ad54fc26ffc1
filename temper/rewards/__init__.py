"""From graders to a training signal: combine, adapt, journal. Weights are values; every change is an event."""
