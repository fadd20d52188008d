"""Document files -> chunks with augmentations, and the questions about them."""
