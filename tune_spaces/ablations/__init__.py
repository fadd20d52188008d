"""Controls and ablations of sparse memory finetuning, swept like methods."""
