"""A model as evaluation and learning see it. The Reader is the door: its decoding, and the part
of a forward pass that is recorded and not computed again, are its own."""

from memlm.model.reader.reader import Reader
from memlm.model.reader.recording import PackedRecording, Recording

__all__ = ["PackedRecording", "Reader", "Recording"]
