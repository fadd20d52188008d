"""Questions with their answers -> statements to learn, by templates or by a model."""
