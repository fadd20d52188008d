"""The kinds of artifact that stages hand to each other, by name. Kept apart from what makes
them, so that asking what is there imports nothing heavy."""

WORLD_KIND = "world"
CORPUS_KIND = "corpus"
QUESTIONS_KIND = "questions"
CHECKPOINT_KIND = "checkpoint"
COUNTS_KIND = "background_counts"
PATCH_KIND = "patch"
