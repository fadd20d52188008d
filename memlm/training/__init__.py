"""One run: the step, the loop, the engine, checkpoints and patches."""
