"""The generated world: a small benchmark of learning against forgetting, and the default input."""
