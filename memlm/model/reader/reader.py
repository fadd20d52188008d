"""A model as evaluation and learning see it: logits, and greedy continuations.

Everything below the first memory layer's read is the same for all models that differ only in
their values. A reader can record it while the base model is scored, and a reader of another such
model, given the recording, continues from there. The result is that of the plain forward pass to
the bit either way.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from memlm.model.reader.decoding import continue_greedily
from memlm.model.reader.recording import Recording, input_key
from memlm.model.reader.trunk import TrunkActivations, continue_from, run_trunk


class Reader:
    """One model, read with the recording of its trunk, if there is one."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        recording: Recording | None = None,
    ) -> None:
        """`recording` must be of a model that differs from this one in its values alone."""
        self.model = model
        self._tokenizer, self._recordings = tokenizer, [] if recording is None else [recording]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        assert self._tokenizer is not None, "this reader was made for tokens alone: give it a tokenizer"
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def window(self) -> int:
        """The most positions that the model looks at."""
        return self.model.config.max_position_embeddings  # type: ignore[union-attr,return-value]

    def logits(
        self, tokens: Int[Tensor, "batch seq"], position_ids: Int[Tensor, "rows seq"] | None = None
    ) -> Float[Tensor, "batch seq vocab"]:
        trunk = self._trunk_of(tokens, position_ids)
        if trunk is None:
            return self.model(input_ids=tokens, position_ids=position_ids, use_cache=False).logits
        return continue_from(self.model, trunk)

    def continue_greedily(
        self, prompts: Int[Tensor, "batch seq"], *, max_new_tokens: int, end_ids: Sequence[int], pad_id: int
    ) -> Int[Tensor, "batch new"]:
        """The most likely next token, again and again, until each row has written one of
        `end_ids` or max_new_tokens; a row's later tokens are pads."""
        trunk = self._trunk_of(prompts, keys_values=True)
        return continue_greedily(
            self.model, prompts, trunk, max_new_tokens=max_new_tokens, end_ids=end_ids, pad_id=pad_id
        )

    @contextmanager
    def recording(self, *, max_bytes: float = math.inf, device: torch.device | None = None) -> Iterator[Recording]:
        """Record each input that is read within the context, and use what was recorded for those
        that are read again.

        Inputs are kept on `device`, by default the model's, in the order in which they are read;
        recording ends at the first that would exceed max_bytes. Gradients do not flow below the
        first memory layer's read.
        """
        recording = Recording(max_bytes=max_bytes, device=device)
        self._recordings.append(recording)
        try:
            yield recording
        finally:
            self._recordings.remove(recording)

    def record(self, tokens: Int[Tensor, "batch seq"], position_ids: Int[Tensor, "rows seq"] | None = None) -> None:
        """Record an input that will be read later, without computing its logits."""
        self._trunk_of(tokens, position_ids)

    def _trunk_of(
        self,
        tokens: Int[Tensor, "batch seq"],
        position_ids: Int[Tensor, "rows seq"] | None = None,
        *,
        keys_values: bool = False,
    ) -> TrunkActivations | None:
        """The trunk's activations; None if nothing was recorded and nothing is being recorded."""
        if not self._recordings:
            return None
        key = input_key(tokens, position_ids)
        for recording in self._recordings:
            if found := recording.find(key, keys_values=keys_values):
                return found.to(tokens.device)
        latest = self._recordings[-1]
        if latest.is_full:
            return None
        trunk = run_trunk(self.model, tokens, position_ids, keep_keys_values=keys_values)
        latest.add(key, trunk)
        return trunk
