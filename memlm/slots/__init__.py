"""Choice of the slots to train: accesses -> counts -> ranking -> selection. Section 4 of Lin et
al. 2025 in four files of plain torch."""
