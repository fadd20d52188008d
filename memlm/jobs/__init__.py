"""Where it runs: the only room that imports Ray. One file per pipeline, of the same name."""
