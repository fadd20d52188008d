"""The interface of a set of kernels, common to the plain torch, C++ and Triton versions."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


class RowGradient(NamedTuple):
    """The gradient of a value table at the rows that were read; it is zero at all other rows."""

    slots: Int[Tensor, " rows"]
    """Ascending, int64, without duplicates."""
    rows: Float[Tensor, "rows value_dim"]
    """fp32."""
    squared_norms: Float[Tensor, " rows"] | None = None
    """As the kernel of that name computes them, if they were computed along with the rows."""


class AdamStep(NamedTuple):
    """The parameters of one step of Adam."""

    number: int
    """From 1, counted over all steps, whether or not a row was read in them. All rows share one
    bias correction."""
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    gradient_scale: float = 1.0
    """Factor applied to the gradient first: clipping, without a pass of its own."""


@runtime_checkable
class Kernels(Protocol):
    """A set of kernels. All are deterministic for given inputs, whatever the number of threads:
    each output row has one owner that adds in a fixed order. (The exception is plain torch on a
    GPU, whose scatter_add_ is not deterministic.)

    Tensors may have any strides, except tables that are written to. Scores, weights and output
    gradients are fp32; tables are fp32, bf16 or fp16, accumulated in fp32.
    """

    def search(
        self, sub_scores: Float[Tensor, "heads 2 tokens num_half_keys"], top_k: int
    ) -> tuple[Int[Tensor, "tokens heads {top_k}"], Float[Tensor, "tokens heads {top_k}"]]:
        """The top_k slots of the product of two halves with their scores, best first.

        Of equal half-keys the lower one is better. Of pairs with equal sums, the one with the
        better first half is better, then the one with the better second half.
        """

    def search_backward(
        self,
        grad_scores: Float[Tensor, "tokens heads top_k"],
        slots: Int[Tensor, "tokens heads top_k"],
        queries: Float[Tensor, "tokens heads key_dim"],
        half_keys: Float[Tensor, "heads 2 num_half_keys key_dim//2"],
    ) -> tuple[Float[Tensor, "tokens heads key_dim"], Float[Tensor, "heads 2 num_half_keys key_dim//2"]]:
        """Gradients of the queries and the half-keys, from the gradients of the scores of the
        slots found."""

    def read(
        self,
        values: Float[Tensor, "num_slots value_dim"],
        slots: Int[Tensor, "tokens reads"],
        weights: Float[Tensor, "tokens reads"],
    ) -> Float[Tensor, "tokens value_dim"]:
        """The sum over reads of weight * values[slot], in the table's type."""

    def read_backward(
        self,
        grad_output: Float[Tensor, "tokens value_dim"],
        values: Float[Tensor, "num_slots value_dim"],
        slots: Int[Tensor, "tokens reads"],
        weights: Float[Tensor, "tokens reads"],
        *,
        rows: bool,
        weight_gradient: bool,
    ) -> tuple[RowGradient | None, Float[Tensor, "tokens reads"] | None]:
        """The requested gradients, of the rows that were read and of the weights, in one pass over
        the rows."""

    def read_backward_of_rows(
        self,
        grad_output: Float[Tensor, "tokens value_dim"],
        slots: Int[Tensor, "tokens reads"],
        weights: Float[Tensor, "tokens reads"],
        row_slots: Int[Tensor, " rows"],
    ) -> Float[Tensor, "rows value_dim"]:
        """The gradient of these rows alone (ascending, without duplicates); zero for a row that
        was not read. Touches no table."""

    def merge_rows(self, parts: list[RowGradient]) -> RowGradient:
        """The sum of one or more gradients, of micro-batches or ranks, added in their order."""

    def squared_norms(self, rows: Float[Tensor, "rows value_dim"]) -> Float[Tensor, " rows"]:
        """The squared norm of each row, in fp64, so that only a row of zeros has norm 0."""

    def count(self, slots: Int[Tensor, " accesses"]) -> tuple[Int[Tensor, " accessed"], Int[Tensor, " accessed"]]:
        """The distinct slots in ascending order, and how often each occurs. The cost depends on
        the accesses, not on the pool."""

    def second_moment(
        self,
        rows: Int[Tensor, " entries"],
        weights: Float[Tensor, " entries"],
        starts: Int[Tensor, " bounds"],
        num_rows: int,
    ) -> Float[Tensor, "columns columns"]:
        """B'B in fp64 of a sparse matrix B with num_rows rows, given column by column: the entries
        of column c are those from starts[c] up to starts[c + 1], each in another row; rows is
        int32, weights fp32. The cost depends on the pairs of entries in one row."""

    def lazy_adam_step(
        self,
        values: Float[Tensor, "num_slots value_dim"],
        first_moments: Float[Tensor, "num_slots value_dim"],
        second_moments: Float[Tensor, "num_slots value_dim"],
        gradient: RowGradient,
        step: AdamStep,
    ) -> None:
        """Adam on the gradient's rows, in place; no other row and no other moment changes. No
        weight decay."""
