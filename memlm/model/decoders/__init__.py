"""Hugging Face's decoders with memory layers in them: the families, and their classes."""
