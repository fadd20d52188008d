"""Models on storage: training states, exported and adopted checkpoints, their model card, and
the rows in their files."""
