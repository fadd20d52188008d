"""Models in storage: training states, exported and adopted checkpoints, their model cards, and the
rows in their files."""
