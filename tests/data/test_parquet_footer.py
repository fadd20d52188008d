import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memlm.data.corpus.shards import read_documents
from memlm.data.file_kinds import ShardError
from memlm.data.parquet_footer import count_values
from memlm.data.questions.sources import read_rows

TABLE = {
    "question": ["q", "r", "s"],
    "answer": [["a", "b"], None, []],
    "text": ["x", "y", "z"],
    "nested": [{"value": 1.5, "names": [["a"], []]}, None, {"value": None, "names": None}],
    "when": [True, None, False],
}


@pytest.mark.parametrize("options", [{}, {"row_group_size": 1}, {"compression": "zstd", "write_statistics": False}])
def test_values_are_counted_as_pyarrow_counts_them(tmp_path, options):
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table(TABLE), path, **options)
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    assert count_values(path) == sum(
        group.column(place).num_values for group in groups for place in range(group.num_columns)
    )


def test_damaged_files_are_reported_without_aborting_the_process(tmp_path):
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table(TABLE), path)
    whole, draw = path.read_bytes(), random.Random(15)
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 5])):
            content[draw.randrange(len(whole) // 2, len(whole))] = draw.randrange(256)
        path.write_bytes(content)
        for read in (read_rows, read_documents):
            try:
                list(read(str(path)))
            except ShardError as error:
                refused += 1
                assert "\n" not in str(error) and str(error).startswith(str(path))
    assert refused > 300
