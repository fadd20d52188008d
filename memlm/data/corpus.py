"""What does `prepare_corpus` hand to pretraining and counting? A tokenizer and token blocks.

The corpus artifact is small: blocks lie in parts of their own, one per shard, which it names by digest.

    corpus/   tokenizer/  parts.json
    blocks/<shard>/blocks.parquet
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from memlm import storage
from memlm.data.blocks import Blocks, write_blocks
from memlm.data.packing import pack
from memlm.data.shards import ShardError, read_documents
from memlm.data.tokenizer import load_tokenizer

KIND = "corpus"
BLOCKS_KIND = "blocks"
BLOCKS_FOLDER = "blocks"
BLOCKS_FILE = "blocks.parquet"


@dataclass(frozen=True, kw_only=True)
class Part:
    """The blocks of one shard."""

    name: str
    """Where it lies beside the corpus artifact, so that a run can be moved."""
    digest: str
    num_blocks: int
    num_documents: int


def write_part(
    shard: str, path: Path, tokenizer: PreTrainedTokenizerBase, *, text_field: str, block_size: int
) -> dict[str, int]:
    """Tokenise and pack one shard. Streams: a document at a time is in memory, and a group of blocks."""
    num_documents = 0

    def tokens() -> Iterator[list[int]]:
        nonlocal num_documents
        for document in read_documents(shard, text_field=text_field):
            num_documents += 1
            # A text that spells a special token is text.
            yield tokenizer(document.text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    blocks = pack(tokens(), block_size=block_size, eos_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id)
    num_blocks = write_blocks(str(path), blocks)
    return {"num_documents": num_documents, "num_blocks": num_blocks}


def write_corpus(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: Sequence[Part],
    validation: Sequence[Part],
) -> None:
    tokenizer.save_pretrained(folder / "tokenizer")
    parts = {"train": [asdict(part) for part in train], "validation": [asdict(part) for part in validation]}
    (folder / "parts.json").write_text(json.dumps(parts, indent=1))


@dataclass(frozen=True)
class Corpus:
    """An opened corpus artifact."""

    uri: str
    folder: Path
    digest: str

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(self.folder / "tokenizer"))

    def train_blocks(self) -> Blocks:
        return self._blocks("train")

    def validation_blocks(self) -> Blocks:
        return self._blocks("validation")

    def _blocks(self, split: str) -> Blocks:
        parts = [Part(**part) for part in json.loads((self.folder / "parts.json").read_text())[split]]
        run = self.uri.rstrip("/").rsplit("/", 1)[0]
        for part in parts:
            if storage.read_manifest(storage.join(run, part.name), BLOCKS_KIND).digest != part.digest:
                raise ShardError(
                    f"{part.name} in {run} is not the part that the corpus {self.uri} was made with; prepare the corpus again"
                )
        return Blocks([str(storage.open_artifact(storage.join(run, part.name)) / BLOCKS_FILE) for part in parts])


def open_corpus(uri: str) -> Corpus:
    return Corpus(uri, storage.open_artifact(uri, kind=KIND), storage.read_manifest(uri, KIND).digest)
