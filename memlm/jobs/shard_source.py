"""Corpus shards as a Ray Data source: one read task a shard, streaming its documents in file order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import pyarrow as pa
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from memlm.data.accounting import Accounting
from memlm.data.listing import Shard, open_shard
from memlm.data.shards import read_documents
from memlm.jobs.cluster import handing_on_errors

ROWS_PER_BLOCK = 1000

Opener = Callable[[Shard], AbstractContextManager[Path]]


class ShardSource(Datasource):
    """Rows of shard, line and text. What is malformed is left out within a limit, and refused beyond it."""

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        text_field: str = "text",
        max_malformed_share: float = 0.0,
        opener: Opener = open_shard,
    ) -> None:
        """`opener` gives a shard's path on the node that reads it."""
        super().__init__()
        self.shards, self.text_field, self.max_malformed_share, self.opener = (
            list(shards),
            text_field,
            max_malformed_share,
            opener,
        )

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, *_: object, **__: object
    ) -> list[ReadTask]:
        return [
            ReadTask(
                lambda shard=shard: self._read(shard),
                BlockMetadata(num_rows=None, size_bytes=None, input_files=(shard.uri,), exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for shard in self.shards
        ]

    def _read(self, shard: Shard) -> Iterator[Block]:
        accounting = Accounting()
        with handing_on_errors(), self.opener(shard) as path:
            documents = read_documents(str(path), text_field=self.text_field, accounting=accounting, name=shard.uri)
            while group := list(islice(documents, ROWS_PER_BLOCK)):
                yield pa.table(
                    {
                        "shard": [shard.uri] * len(group),
                        "line": [document.line for document in group],
                        "text": [document.text for document in group],
                    }
                )
            accounting.require_few_malformed(shard.uri, self.max_malformed_share)
