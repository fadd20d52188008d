"""Question files -> questions, the facts to learn, and the streams of batches for trials."""
