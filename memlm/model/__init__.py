"""The models: product-key search, the memory layer, and the language model that contains it."""
