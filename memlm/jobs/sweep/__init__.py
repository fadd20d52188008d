"""Sweeps: settings, data shared by the trials, trials on Ray Tune, and the report."""
