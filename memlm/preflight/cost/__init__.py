"""Cost of a recipe, by arithmetic on the config alone: without a cluster, torch or files."""
