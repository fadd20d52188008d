"""Many trials: which settings are swept, what trials share, how Ray Tune runs them, and the
report."""
