"""The methods by which a model learns, one file each: what may move in a step, and how. parts/ is
what they are built from."""
