"""Parts of `prepare_corpus` (shards, texts for the tokenizer, packed blocks, questions), and texts
written by a language model."""
