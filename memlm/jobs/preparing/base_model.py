"""The model before learning, as workers ask it or let it write: the dense checkpoint."""

from functools import lru_cache

from memlm import storage
from memlm.config import Config
from memlm.data.tokenizer import load_tokenizer
from memlm.jobs.on_ray.workers import device_of
from memlm.kinds import CHECKPOINT_KIND
from memlm.model.language_model import load_checkpoint
from memlm.model.reader import Reader


@lru_cache(maxsize=1)
def read_base(config: Config, uri: str, digest: str) -> Reader:
    """A reader of the checkpoint with that digest, once in each worker. Raises StorageError if it
    is missing or another."""
    folder = storage.open_artifact(uri, kind=CHECKPOINT_KIND, digest=digest)
    model = load_checkpoint(folder, device_of(config.cluster))
    return Reader(model, load_tokenizer(str(folder), num_rows=model.get_input_embeddings().num_embeddings))
