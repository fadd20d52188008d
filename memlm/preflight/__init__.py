"""Before anything runs: what stands in the way (doctor), what would be done (dry run), and what
it would cost."""
