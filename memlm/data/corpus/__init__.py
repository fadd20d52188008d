"""Corpus shards -> documents -> token blocks. Every line is accounted for."""
