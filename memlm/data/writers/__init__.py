"""Who writes statements, wordings and augmentations: a model run here, or one behind an address.
Prompts in, texts out."""
