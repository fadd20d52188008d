"""What does a recipe cost before it is run? Arithmetic on the config alone: no cluster, no
torch, no file is read."""
