"""Build the writer that a config describes."""

import torch

from memlm.data.writers.budget import Budget
from memlm.data.writers.config import WriterConfig
from memlm.data.writers.endpoint import EndpointWriter
from memlm.data.writers.hugging_face import HuggingFaceWriter, find_revision
from memlm.data.writers.interface import Writer, WriterError


def revision_of(config: WriterConfig) -> str:
    """Revision of the writer's weights, if it can be determined. An endpoint only names its
    model."""
    if not config.model:
        raise WriterError(
            "writer.model is empty; name a Hugging Face causal model by folder or hub id, or the model of writer.endpoint.base_url"
        )
    return config.revision if config.endpoint.base_url else find_revision(config.model, config.revision)


def build_writer(config: WriterConfig, *, revision: str, budget: Budget, device: torch.device) -> Writer:
    """Build a writer. `revision` comes from one call of revision_of, so that all workers load the
    same weights."""
    if config.endpoint.base_url:
        return EndpointWriter(config, budget)
    return HuggingFaceWriter(config, revision=revision, device=device)
