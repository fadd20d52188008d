"""Statements to learn, made of questions and their answers by templates or by a model."""
