"""Document files -> chunks, each in many texts, and what is asked about them."""
