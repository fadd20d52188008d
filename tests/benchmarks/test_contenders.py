"""Both sides of a row compute the same at small sizes, and the comparison finds a defect. The
packages of peers are not needed."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from memlm.model.config import MemoryConfig, ModelConfig
from tests.benchmarks.contender import Clock, Contender
from tests.benchmarks.contenders import decorrelated
from tests.benchmarks.contenders.decorrelated import ConjugateGradients, Eigenvectors, Factor, KeptFactor
from tests.benchmarks.contenders.layers import EmbeddingBagLayer, OurLayer, same_step
from tests.benchmarks.contenders.models import flops_per_token, text_like
from tests.benchmarks.contenders.reads import EmbeddingBagRead, OurRead, same_read
from tests.benchmarks.contenders.sparse_steps import OurPoolStep, PlainPoolStep, same_rows
from tests.benchmarks.gpus import copied_bytes, peak_flops
from tests.benchmarks.growth import POOL_STEP, Point, draw, planned_points
from tests.benchmarks.inputs import LayerShape, spread_reads, value_table
from tests.benchmarks.rows import same_step_of_rows

CPU = torch.device("cpu")
SHAPE = LayerShape(num_half_keys=20, num_tokens=32, width=8, top_k=4, num_heads=2, key_dim=6, value_dim=5)
READ: dict[str, Any] = {
    "num_tokens": 32,
    "num_heads": 2,
    "top_k": 4,
    "num_slots": 400,
    "value_dim": 5,
    "learning_rate": 1.0,
}


@pytest.fixture
def our_layer(one_rank: None) -> Iterator[OurLayer]:
    layer = OurLayer(device=CPU, **SHAPE.json())
    yield layer
    layer.close()


@pytest.mark.parametrize("gradient", ["dense", "sparse"])
def test_the_layers_take_the_same_step_and_a_mutant_is_caught(gradient: Any, our_layer: OurLayer) -> None:
    ours = our_layer.outputs()
    theirs = EmbeddingBagLayer(device=CPU, gradient=gradient, **SHAPE.json()).outputs()
    assert same_step(ours, theirs) == []
    assert float(ours["step of the rows"].abs().max()) > 0
    for name in theirs:
        assert any(name in sentence for sentence in same_step({**ours, name: ours[name] * 1.1}, theirs)), name


def test_the_reads_take_the_same_step_and_a_mutant_is_caught() -> None:
    ours, theirs = (kind(device=CPU, **READ).outputs() for kind in (OurRead, EmbeddingBagRead))
    assert same_read(ours, theirs) == []
    for name in theirs:
        assert len(same_read({**ours, name: ours[name] * 1.01}, theirs)) == 1, name


@pytest.mark.parametrize("distinct", [0, 100])
def test_the_sparse_steps_change_the_same_rows_and_a_mutant_is_caught(distinct: int) -> None:
    arguments: dict[str, Any] = {"num_trainable_slots": 6, "distinct": distinct, "layer": SHAPE.json()}
    ours, theirs = (kind(device=CPU, **arguments).outputs() for kind in (OurPoolStep, PlainPoolStep))
    assert same_rows(ours, theirs) == []
    assert len(ours["chosen"]) == 6
    assert same_rows({**ours, "step": ours["step"] * 1.01}, theirs)
    assert same_rows({**ours, "changed": ours["changed"] + 1}, theirs) == [
        "the slots changed are not those of the plain definition"
    ]


def contenders(our_layer: OurLayer) -> list[Contender]:
    arguments: dict[str, Any] = {"num_trainable_slots": 6, "layer": SHAPE.json()}
    return [
        our_layer,
        EmbeddingBagLayer(device=CPU, gradient="dense", **SHAPE.json()),
        OurRead(device=CPU, **READ),
        OurPoolStep(device=CPU, whole=True, **arguments),
        PlainPoolStep(device=CPU, **arguments),
    ]


def test_a_repeat_can_be_repeated_and_leaves_no_gradient_behind(our_layer: OurLayer) -> None:
    for contender in contenders(our_layer):
        for _ in range(3):
            clock = Clock(CPU, wall=False)
            contender.repeat(clock)
            assert clock.seconds > 0, contender
    assert our_layer.hidden.grad is None
    assert our_layer.pool.gradient_target.parts == []


def test_reads_of_the_growth_rows_are_the_same_in_every_pool() -> None:
    small, large = (spread_reads(5, 8, num_slots, 10, CPU) for num_slots in (20, 4000))
    assert torch.equal(small // 2, large // 400)
    assert int(large.max()) >= 2000
    with pytest.raises(ValueError, match="distinct is 30, and the pool has 20 slots"):
        spread_reads(5, 8, 20, 30, CPU)


def test_a_table_has_all_its_rows() -> None:
    table = value_table((1 << 14) + 3, 2, CPU)
    assert torch.equal(table[-3:], table[:3])
    assert float(table.std()) == pytest.approx(2**-0.5, rel=0.05)


def test_text_has_documents_and_no_pads() -> None:
    tokens = text_like(8, 128, 100)
    assert tokens.shape == (8, 128)
    assert int((tokens == 98).sum()) == 8 * 128 // 64
    assert int(tokens.max()) == 98


def test_flops_of_a_token_are_six_per_weight() -> None:
    memory = MemoryConfig(layers=(0,), num_half_keys=9, top_k=3, num_heads=2, key_dim=6, value_dim=10)
    shape = ModelConfig(num_layers=1, hidden_size=12, num_attention_heads=2, intermediate_size=20, memory=memory)
    attention, norms, head = 4 * 12 * 12, 2 * 12 + 12, 50 * 12
    queries, half_keys, rows = 12 * 12 + 12, 2 * 2 * 9 * 3, 2 * 3 * 10
    gate_and_output = 12 * 10 + 10 + 10 * 12 + 12
    expected = 6 * (attention + norms + head + queries + half_keys + rows + gate_and_output) + 12 * 1 * 12 * 64
    assert flops_per_token(shape, vocab_size=50, block_size=64) == expected
    tied = dataclasses.replace(shape, tie_embeddings=True)
    assert flops_per_token(tied, vocab_size=50, block_size=64) == expected


def test_peaks_are_found_by_device_names() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("a device of another maker") is None
    assert copied_bytes() == 2 << 30


def test_the_picture_spans_the_documented_sizes() -> None:
    sizes = {axis: [point.size for point in planned_points("cpu") if point.axis == axis] for axis in ("slots", "t")}
    assert (min(sizes["slots"]), max(sizes["slots"])) == (1 << 14, 1 << 22)
    assert (min(sizes["t"]), max(sizes["t"])) == (50, 5000)


def test_a_picture_is_drawn_even_if_points_are_missing(tmp_path: Path) -> None:
    points = [Point(axis="slots", size=1 << 14, step=POOL_STEP, milliseconds=8, working_mib=7)]
    draw(points, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rows", [6, 40])
def test_the_decorrelated_steps_agree_and_a_mutant_is_caught(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {"num_trainable_slots": rows, "background_tokens": 300, "layer": SHAPE.json()}
    ours = Factor(device=CPU, **arguments).outputs()
    monkeypatch.setattr(decorrelated, "SMALLEST", 1e-9)  # all directions count
    for kind in (KeptFactor, ConjugateGradients, Eigenvectors):
        theirs = kind(device=CPU, **arguments).outputs()
        assert same_step_of_rows(ours, theirs) == [] and len(theirs["chosen"]) == rows
    assert same_step_of_rows({**ours, "step": ours["step"] * 1.01}, theirs)
    assert same_step_of_rows({**ours, "chosen": ours["chosen"] + 1}, theirs)
    monkeypatch.setattr(decorrelated, "MAX_INVERSE", 5)
    assert same_step_of_rows(ours, Factor(device=CPU, **arguments).outputs()) == []
