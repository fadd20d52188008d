"""The kernels for GPUs, in Triton: the common signature, answered by

- `triton_search.py`: which slots a token reads, and the gradients of queries and half-keys;
- `triton_read.py`: what it reads there, and the gradients of rows and weights;
  - `triton_lookup_sums.py`: the sum over each row's lookups, which is the gradient of a row of
  any table;
- `triton_rows.py`: the gradients of rows merged, and applied by Adam;
- `triton_launch.py`: how a row is cut into the blocks of columns that programs work on.

Bytes moved decide everything here, so each row of a table crosses the memory bus once per pass.
Every sum has one owner and a fixed order: no float atomics, same bits each time.

Kernels get tensors as pointers, each followed by its strides unless they are fixed; a shape is
in elements. Offsets that grow with a table or a batch are int64: 1,048,576 slots of 1,024
columns have 2**30 elements, and more slots more.
"""

from memlm.model.kernels.reference import count, squared_norms
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
    "squared_norms",
]
