"""One trial on a worker: what it reads, how it learns, and the pages that it leaves."""
