"""Methods that the paper does not compare with, swept next to its own."""
