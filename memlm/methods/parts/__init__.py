"""The algorithms of the larger methods. Files here may import torch when they are imported."""
