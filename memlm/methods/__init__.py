"""The methods by which a model learns, one file each: what may move in a step, and how. parts/
holds the algorithms of the larger ones."""
