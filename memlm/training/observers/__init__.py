"""Who watches a stream as it is learned: the interface, and what is measured in between."""
