"""What a sweep or a trial comes to: scores, the frontier, and the pages and pictures that show
them."""
