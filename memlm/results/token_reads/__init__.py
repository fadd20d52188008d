"""The tokens that read trainable slots: statistics over facts, and a picture (Lin et al. 2025,
section 6 and Table 1)."""
