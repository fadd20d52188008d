"""One trial on a worker: inputs, learning, and pages about it."""
