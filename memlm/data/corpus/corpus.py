"""The corpus artifact, which `prepare_corpus` hands to pretraining and counting: a tokenizer and
token blocks.

It is small: blocks are in separate artifacts, one per shard, which it lists by digest.

    corpus/   tokenizer/  parts.json  accounting.json
    blocks/<shard>/blocks.parquet

`accounting.json` accounts for every line of every shard (accounting.py), and names shards that
could not be read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from memlm import storage
from memlm.data.corpus.accounting import Accounting, total
from memlm.data.corpus.blocks import BlockFile, Blocks, write_blocks
from memlm.data.corpus.packing import pack
from memlm.data.corpus.shards import ShardError, read_documents
from memlm.data.encoding import encode
from memlm.data.tokenizer import load_tokenizer, save_tokenizer
from memlm.kinds import ACCOUNTING_FILE, BLOCKS_FILE, BLOCKS_KIND, CORPUS_KIND, PARTS_FILE, TOKENIZER_FOLDER


@dataclass(frozen=True, kw_only=True)
class Part:
    """The blocks of one shard."""

    name: str
    """Its name next to the corpus artifact, so that a run can be moved."""
    digest: str
    num_blocks: int
    num_documents: int


def write_part(
    shard: str,
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    text_field: str,
    block_size: int,
    max_malformed_share: float,
    name: str = "",
) -> tuple[int, Accounting]:
    """Tokenise and pack one shard. Returns the number of blocks and the accounting of its lines.
    Messages use `name` instead of the path.

    Streams: only one document and one group of blocks are in memory. Raises TooManyMalformed, and
    ShardError if the shard cannot be read or holds no document.
    """
    name, accounting = name or shard, Accounting()

    def tokens() -> Iterator[list[int]]:
        for document in read_documents(shard, text_field=text_field, accounting=accounting, name=name):
            yield encode(tokenizer, document.text)
        accounting.check(name)
        accounting.require_few_malformed(name, max_malformed_share)
        if not accounting.kept:
            raise ShardError(
                f"{name}: holds no documents ({accounting}). Check the corpus path, or move this shard away."
            )

    blocks = pack(tokens(), block_size=block_size, eos_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id)
    return write_blocks(str(path), blocks), accounting


def write_corpus(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: Sequence[Part],
    validation: Sequence[Part],
    accounts: Mapping[str, Accounting],
    quarantined: Mapping[str, str],
) -> None:
    """Write a corpus artifact. `accounts` is by shard; `quarantined` maps each shard that was left
    out to the reason."""
    save_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)
    parts = {"train": [asdict(part) for part in train], "validation": [asdict(part) for part in validation]}
    (folder / PARTS_FILE).write_text(json.dumps(parts, indent=1))
    shards = {
        name: {key: value for key, value in part.to_json().items() if key != "samples"}  # the total has the first ones
        for name, part in accounts.items()
    }
    content = {"total": total(accounts).to_json(), "shards": shards, "quarantined": dict(quarantined)}
    (folder / ACCOUNTING_FILE).write_text(json.dumps(content, indent=1))


@dataclass(frozen=True)
class Corpus:
    """An opened corpus artifact."""

    uri: str
    folder: Path
    digest: str

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(str(self.folder / TOKENIZER_FOLDER))

    def train_blocks(self) -> Blocks:
        return self._blocks("train")

    def validation_blocks(self) -> Blocks:
        return self._blocks("validation")

    def _blocks(self, split: str) -> Blocks:
        parts = [Part(**part) for part in json.loads((self.folder / PARTS_FILE).read_text())[split]]
        run = self.uri.rstrip("/").rsplit("/", 1)[0]
        if not storage.is_remote(run):  # every part is checked before work begins
            return Blocks([_fetch(run, part) for part in parts])
        # Parts are fetched as they are needed, since counting reads only a few blocks of a corpus
        # that may have terabytes.
        return Blocks([BlockFile(fetch=partial(_fetch, run, part), num_blocks=part.num_blocks) for part in parts])


def _fetch(run: str, part: Part) -> str:
    """The part's file on this node."""
    uri = storage.join(run, part.name)
    if storage.read_manifest(uri, BLOCKS_KIND).digest != part.digest:
        raise ShardError(
            f"{part.name} in {run} is not the part that the corpus was made with; prepare the corpus again"
        )
    return str(storage.open_artifact(uri, digest=part.digest) / BLOCKS_FILE)


def open_corpus(uri: str, *, digest: str | None = None) -> Corpus:
    """Open a corpus; with a digest, only the corpus with that digest. Raises StorageError if it
    does not exist."""
    found = storage.read_manifest(uri, CORPUS_KIND, digest=digest).digest
    return Corpus(uri, storage.open_artifact(uri, kind=CORPUS_KIND, digest=found), found)
