"""From finished trials to what a frontier compares: which trials, sets and settings, and the
differences between methods."""
