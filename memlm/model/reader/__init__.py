"""How a model is read: its decoding, and what the trunk below the first memory layer makes of a
text, computed once."""
