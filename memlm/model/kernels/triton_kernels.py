"""The kernels for GPUs, in Triton:

- `triton_search.py`: the search for slots, and the gradients of queries and half-keys;
- `triton_read.py`: the read, and the gradients of rows and weights;
  - `triton_lookup_sums.py`: the sum over each row's lookups, which is the gradient of a row of
  any table;
- `triton_rows.py`: merging of row gradients, and Adam on them;
- `triton_launch.py`: the division of a row into blocks of columns, one per program.

Memory bandwidth decides the speed, so each row of a table crosses the memory bus once per pass.
Every sum has one owner and a fixed order: no float atomics, the same bits each time.

Kernels receive tensors as pointers, each followed by its strides unless these are fixed; shapes
are in elements. Offsets that grow with a table or a batch are int64: 1,048,576 slots of 1,024
columns already have 2**30 elements.
"""

from memlm.model.kernels.reference import count, second_moment, squared_norms
from memlm.model.kernels.triton_read import read, read_backward, read_backward_of_rows
from memlm.model.kernels.triton_rows import lazy_adam_step, merge_rows
from memlm.model.kernels.triton_search import search, search_backward

__all__ = [
    "count",
    "lazy_adam_step",
    "merge_rows",
    "read",
    "read_backward",
    "read_backward_of_rows",
    "search",
    "search_backward",
    "second_moment",
    "squared_norms",
]
