"""What is computed: product-key search, the memory layer, and the language model that holds it."""
