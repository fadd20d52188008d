"""Worker's side of a recipe with a base: the model of which a part is trained, what it is kept
close to, and the checkpoint that is written and measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from memlm import artifacts, storage
from memlm.config import Config
from memlm.data.corpus.corpus import Corpus
from memlm.kinds import CONTROL_FILE
from memlm.model.bases.key_fitting import num_tokens_to_fit
from memlm.model.language_model import load_checkpoint
from memlm.training.checkpoints import of_base
from memlm.training.checkpoints.gates import Measured, MeasuredControl, measure, measure_control
from memlm.training.checkpoints.text_loss import end_of_text, mean_loss
from memlm.training.pretrain import Teacher

if TYPE_CHECKING:
    from memlm.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class PretrainingOfBase:
    """The training of a base's memory, or of the dense control in its place."""

    config: Config
    inputs: Mapping[str, str]
    """Digests of what is made into the checkpoint."""
    is_control: bool

    @property
    def base(self) -> Path:
        return artifacts.checkpoint(self.config, "dense").open(digest=self.inputs["base"])

    @property
    def attached(self) -> Path:
        return artifacts.attached(self.config).open(digest=self.inputs["attached"])

    def model(self, device: torch.device) -> nn.Module:
        settings = self.config.pretraining
        if self.is_control:
            return of_base.control_to_train(self.base, self.config.model.memory, settings, device)
        return of_base.memory_to_train(self.attached, settings, device)

    def teacher(self, engine: "Engine") -> Teacher | None:
        placement = self.config.model.memory.placement
        return of_base.teacher_of(engine.model, self.base, placement, self.config.pretraining)

    def write(
        self, draft: storage.Draft, weights: Mapping[str, Tensor], corpus: Corpus, *, device: torch.device
    ) -> Measured | MeasuredControl:
        """Write what was trained, and measure it on held-out text."""
        tokens = num_tokens_to_fit(self.config.model.memory.num_half_keys)
        blocks = of_base.blocks_to_measure(corpus, num_tokens=tokens)
        base_loss = mean_loss(load_checkpoint(self.base, device), blocks, eos_id=end_of_text(corpus.tokenizer))
        memory, probes = self.config.model.memory, self.config.model.num_probes
        if self.is_control:
            save_file(dict(weights), draft.path / CONTROL_FILE)
            control = of_base.control_with_trained(self.base, memory, weights, device)
            found = measure_control(
                control, weights.keys(), corpus.tokenizer, blocks, base_loss=base_loss, num_probes=probes
            )
            draft.details["control"] = found.as_json()
            return found
        model, address = of_base.with_trained(self.attached, weights), self._address
        of_base.write_whole(model, self.base, address, memory, draft.path, num_tokens=num_tokens(self.config))
        measured = measure(model.to(device), corpus.tokenizer, blocks, base_loss=base_loss, num_probes=probes)
        draft.details.update(base=address, gates=measured.as_json())
        return measured

    @property
    def _address(self) -> str:
        """Where the base came from."""
        return str(artifacts.checkpoint(self.config, "dense").manifest().details["base"])


def num_tokens(config: Config) -> int:
    """Tokens that the whole pretraining reads, pads included."""
    return config.pretraining.num_steps * config.pretraining.batch_blocks * config.corpus.block_size
