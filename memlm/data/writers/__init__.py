"""The models that write statements, wordings and augmentations: run locally, or behind an
endpoint. They take prompts and return texts."""
