"""Corpus shards as a Ray Data source: one read task a shard, streaming its documents in file order."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import pyarrow as pa
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from memlm.data.shards import read_documents
from memlm.jobs.cluster import handing_on_errors

ROWS_PER_BLOCK = 1000


class ShardSource(Datasource):
    """Rows of shard, line and text."""

    def __init__(self, shards: Sequence[str], *, text_field: str = "text", locate: Callable[[str], str] = str) -> None:
        """`locate` gives a shard's path on the node that reads it."""
        super().__init__()
        self.shards, self.text_field, self.locate = list(shards), text_field, locate

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, *_: object, **__: object
    ) -> list[ReadTask]:
        return [
            ReadTask(
                lambda shard=shard: _read(self.locate(shard), self.text_field),
                BlockMetadata(num_rows=None, size_bytes=None, input_files=(shard,), exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for shard in self.shards
        ]


def _read(shard: str, text_field: str) -> Iterator[Block]:
    documents = read_documents(shard, text_field=text_field)
    with handing_on_errors():
        while group := list(islice(documents, ROWS_PER_BLOCK)):
            yield pa.table(
                {
                    "shard": [shard] * len(group),
                    "line": [document.line for document in group],
                    "text": [document.text for document in group],
                }
            )
