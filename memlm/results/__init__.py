"""The results of a sweep or a trial: scores, the frontier, and the pages and pictures that show
them."""
