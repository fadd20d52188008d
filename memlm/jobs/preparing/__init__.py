"""The parts of `prepare_corpus`: shards, texts for the tokenizer, packed blocks, and questions;
and texts written by a model."""
