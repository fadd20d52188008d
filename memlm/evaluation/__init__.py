"""Evaluation of a model: generated answers, likelihood of held-out text, and the skill it should
keep.

Every score is one number per question or block, so that the frontier can resample them; changes
are always relative to the model's own start.
"""
