"""Other people's models, which memlm puts a memory into: found, checked, and joined with it."""
