"""From text to batches: shards -> documents -> tokens -> blocks, and question files -> questions.

Pure functions on local files. Nothing here depends on a cluster, a bucket or a model: `jobs/` maps
these functions over shards, and `storage/` first brings remote files to the local disk.
"""
