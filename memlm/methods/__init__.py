"""What may move when a model learns: one file per method behind one interface."""
