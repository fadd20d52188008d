"""What methods are built from. Files here may import torch when they are imported."""
