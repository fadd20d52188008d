"""Analyses of a trained model that change none of its weights."""
