"""From text to batches: shards -> documents -> tokens -> blocks, and question files -> questions.

Pure functions on local files. Nothing here knows a cluster, a bucket or a model: `jobs/` maps
these functions over shards, and `storage/` brings remote files here first.
"""
