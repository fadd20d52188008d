"""Rows of the table: the contenders, their shapes, and the bar.

A row is asked to run with a folder for what its contenders exchange, and gives its figures; what
failed becomes part of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from memlm.recipes.laptop import LAPTOP_MODEL
from tests.benchmarks.contenders.layers import same_step
from tests.benchmarks.contenders.models import COUNTED_BLOCKS, COUNTED_MODEL, same_counts, tokens_of_step
from tests.benchmarks.contenders.peers import DIFFERS
from tests.benchmarks.contenders.reads import same_read
from tests.benchmarks.contenders.search import same_up_to_ties
from tests.benchmarks.contenders.sparse_steps import same_rows
from tests.benchmarks.inputs import LayerShape
from tests.benchmarks.measure import (
    Budget,
    Check,
    ContenderError,
    Pairing,
    Process,
    Spec,
    Timing,
    far_apart,
    in_turns,
    pair,
)
from tests.benchmarks.sweeps import NUM_FACTS, NUM_PASSES, NUM_TRIALS, materials_folder

Bound = Literal["min", "max"]
KERNEL_BUDGET = Budget(seconds=8)
BACKGROUND_TOKENS = 65_536


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of a row."""

    ours: float
    peer: float
    peer_name: str
    ratio: float
    conditions: dict[str, Any]
    failures: list[str] = field(default_factory=list)
    """Reasons why the figures are invalid: outputs that differ from a peer's."""


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    unit: str
    bound: Bound
    bar: float | None
    """Bar of the ratio; None for a figure without one."""
    aim: float | None
    seconds: float
    """Estimate on two cores, for the remaining time."""
    run: Callable[[Path], Figures]


def compared_row(
    name: str,
    *,
    bound: Bound,
    bar: float,
    aim: float,
    seconds: float,
    ours: Spec,
    peers: Sequence[Spec],
    shape: str,
    check: Check | None,
    tokens: int = 0,
    budget: Budget = KERNEL_BUDGET,
) -> Row:
    """Comparison of ours with each peer, the best of which is the row's peer. Times in
    milliseconds, or tokens per second where `tokens` is the number per repeat. `min`: their time
    over ours; `max`: ours over theirs.

    Times in milliseconds, or tokens per second where `tokens` says how many a repeat has. `min`:
    their time over ours; `max`: ours over theirs.
    """

    def run(folder: Path) -> Figures:
        pairings = pair(ours, peers, folder, check=check, budget=budget)
        return figures_of(pairings, bound=bound, shape=shape, tokens=tokens)

    unit = "tokens/s" if tokens else "ms"
    return Row(name=name, unit=unit, bound=bound, bar=bar, aim=aim, seconds=seconds, run=run)


def figures_of(pairings: Sequence[Pairing], *, bound: Bound, shape: str, tokens: int = 0) -> Figures:
    """Figures in comparison with the fastest eligible peer. Raises ContenderError if none of them
    ran."""
    candidates = [pairing for pairing in pairings if not pairing.error and not pairing.peer.only_compared]
    if not candidates:
        raise ContenderError("; ".join(pairing.error for pairing in pairings if pairing.error))
    best = min(candidates, key=lambda pairing: pairing.ratio)
    assert best.ours is not None and best.theirs is not None

    def shown(timing: Timing) -> float:
        return tokens / timing.median if tokens else 1e3 * timing.median

    peers = [_described(pairing, shown) for pairing in pairings]
    return Figures(
        ours=shown(best.ours),
        peer=shown(best.theirs),
        peer_name=best.peer.name,
        ratio=best.ratio if bound == "min" else 1 / best.ratio,
        conditions={"shape": shape, "peers": peers},
        failures=[f"{pairing.peer.name}: {sentence}" for pairing in pairings for sentence in pairing.differences],
    )


def _described(pairing: Pairing, shown: Callable[[Timing], float]) -> dict[str, Any]:
    """One peer's line in the conditions."""
    if pairing.error:
        return {"name": pairing.peer.name, "error": pairing.error}
    assert pairing.ours is not None and pairing.theirs is not None
    if pairing.compared:
        agrees = "; ".join(pairing.differences) or "the same outputs"
    else:
        agrees = pairing.peer.differs or "outputs not compared"
    return {
        "name": pairing.peer.name,
        "ours": shown(pairing.ours),
        "peer": shown(pairing.theirs),
        "peer_time_over_ours": pairing.ratio,
        "repeats": len(pairing.ours.seconds),
        "wall_over_counted": sum(pairing.ours.wall_seconds) / sum(pairing.ours.seconds),
        "ours_peak_mib": pairing.peak_bytes[0] / 2**20,
        "peer_peak_mib": pairing.peak_bytes[1] / 2**20,
        "mathematics": agrees,
    }


def layer_shape_text(shape: LayerShape) -> str:
    return (
        f"{shape.num_slots:,} slots, {shape.num_tokens:,} tokens, width {shape.width}, k {shape.top_k}, {shape.num_heads} heads, "
        f"key_dim {shape.key_dim}, value_dim {shape.value_dim}, fp32"
    )


def search_row(name: str, num_half_keys: int, bar: float, aim: float, device: str) -> Row:
    shape = LayerShape(num_half_keys=num_half_keys)
    arguments = {"device": device, **shape.json()}
    return compared_row(
        name,
        bound="min",
        bar=bar,
        aim=aim,
        seconds=18,
        ours=Spec(name="memlm", contender="contenders.search:PrunedSearch", arguments=arguments),
        peers=[Spec(name="k * k search in torch", contender="contenders.search:SquareSearch", arguments=arguments)],
        shape=f"{num_half_keys} half-keys, {layer_shape_text(shape)}; sub-key products included; forward",
        check=same_up_to_ties,
    )


def layer_row(name: str, num_half_keys: int, bar: float, aim: float, seconds: float, device: str) -> Row:
    shape = LayerShape(num_half_keys=num_half_keys)
    arguments = {"device": device, **shape.json()}

    def peer(name: str, contender: str, tables: float, differs: str = "", **more: Any) -> Spec:
        needs = int(tables * shape.table_bytes)
        return Spec(name=name, contender=contender, arguments={**arguments, **more}, differs=differs, needs_bytes=needs)

    return compared_row(
        name,
        bound="min",
        bar=bar,
        aim=aim,
        seconds=seconds,
        ours=peer("memlm, lazy Adam", "contenders.layers:OurLayer", 3.5),
        peers=[
            peer("embedding_bag, AdamW", "contenders.layers:EmbeddingBagLayer", 4.5, gradient="dense"),
            peer(
                "embedding_bag(sparse=True), SparseAdam", "contenders.layers:EmbeddingBagLayer", 4.5, gradient="sparse"
            ),
            peer(
                "product-key-memory, gated, AdamW",
                "contenders.peers:ProductKeyMemory",
                4.5,
                DIFFERS["ProductKeyMemory"],
            ),
            replace(
                peer(
                    "product-key-memory alone, AdamW",
                    "contenders.peers:ProductKeyMemory",
                    4.5,
                    DIFFERS["ProductKeyMemory alone"],
                    alone=True,
                ),
                only_compared=True,
            ),
            peer("PEER-pytorch, AdamW", "contenders.peers:PEER", 9, DIFFERS["PEER"]),
            peer("ultra-mem, AdamW", "contenders.peers:UltraMem", 4.5, DIFFERS["UltraMem"]),
        ],
        shape=f"{layer_shape_text(shape)}; forward, backward and optimizer",
        check=same_step,
        budget=Budget(seconds=3),
    )


def read_row(device: str) -> Row:
    shape = LayerShape(num_half_keys=1024)
    arguments = {
        "device": device,
        "num_tokens": shape.num_tokens,
        "num_heads": shape.num_heads,
        "top_k": shape.top_k,
        "num_slots": shape.num_slots,
        "value_dim": shape.value_dim,
        "learning_rate": 1.0,
    }

    def peer(name: str, contender: str, tables: float, **more: Any) -> Spec:
        spec_arguments = {**arguments, **{key: more.pop(key) for key in ("optimizer",) if key in more}}
        needs = int(tables * shape.table_bytes)
        return Spec(name=name, contender=contender, arguments=spec_arguments, needs_bytes=needs, **more)

    fused = "contenders.peers:FusedEmbeddingBags"
    return compared_row(
        "read_1m",
        bound="min",
        bar=1,
        aim=1.5,
        seconds=45,
        ours=peer("memlm, SGD on rows", "contenders.reads:OurRead", 1.5),
        peers=[
            peer("FBGEMM EXACT_SGD", fused, 1.5, optimizer="EXACT_SGD"),
            peer(
                "FBGEMM EXACT_ROWWISE_ADAGRAD",
                fused,
                1.5,
                optimizer="EXACT_ROWWISE_ADAGRAD",
                differs=DIFFERS["FBGEMM Adagrad"],
            ),
            # FBGEMM's package for CPUs has no kernels for a GPU; there torch's own is the best
            # peer at hand.
            peer("embedding_bag, SGD", "contenders.reads:EmbeddingBagRead", 2.5, only_compared=device == "cpu"),
        ],
        shape=f"{layer_shape_text(shape)}, slots uniform; forward, backward to rows and weights, optimizer",
        check=same_read,
    )


def sparse_step_row(device: str) -> Row:
    shape = LayerShape(num_half_keys=1024)
    arguments = {"device": device, "num_trainable_slots": 500, "layer": shape.json()}
    return compared_row(
        "smf_step_1m",
        bound="min",
        bar=15,
        aim=40,
        seconds=45,
        ours=Spec(name="memlm", contender="contenders.sparse_steps:OurPoolStep", arguments=arguments),
        peers=[
            Spec(
                name="plain definition: dense gradient, mask, SGD over all rows",
                contender="contenders.sparse_steps:PlainPoolStep",
                arguments=arguments,
                needs_bytes=int(3.5 * shape.table_bytes),
            )
        ],
        shape=f"{layer_shape_text(shape)}, slots uniform, t 500; rank, gradient and update, forward excluded",
        check=same_rows,
    )


GROWTH_DISTINCT = 1 << 14


def growth_row(device: str) -> Row:
    def spec(num_half_keys: int) -> Spec:
        shape = LayerShape(num_half_keys=num_half_keys)
        return Spec(
            name=f"memlm at {shape.num_slots:,} slots",
            contender="contenders.sparse_steps:OurPoolStep",
            arguments={
                "device": device,
                "num_trainable_slots": 500,
                "distinct": GROWTH_DISTINCT,
                "layer": shape.json(),
            },
            needs_bytes=shape.table_bytes,
        )

    return compared_row(
        "smf_step_growth",
        bound="max",
        bar=1.25,
        aim=1.05,
        seconds=40,
        ours=spec(2048),
        peers=[spec(256)],
        shape=f"{layer_shape_text(LayerShape(num_half_keys=2048))}, t 500; the same reads of {GROWTH_DISTINCT:,} distinct slots, "
        "spread evenly over either pool; rank, gradient and update",
        check=None,
        budget=Budget(seconds=10, most=60),
    )


def decorrelated_row(num_rows: int, seconds: float, budget: Budget, device: str, *, eigenvectors: bool) -> Row:
    shape = LayerShape(num_half_keys=1024, value_dim=1024)
    arguments = {
        "device": device,
        "num_trainable_slots": num_rows,
        "background_tokens": BACKGROUND_TOKENS,
        "layer": shape.json(),
    }

    def spec(name: str, kind: str, **more: Any) -> Spec:
        return Spec(
            name=name, contender=f"contenders.decorrelated:{kind}", arguments=arguments, needs_bytes=2 << 30, **more
        )

    differs = "directions with an eigenvalue below a tenth of lambda move as by SGD"
    return compared_row(
        f"decorrelated_{num_rows}",
        bound="min",
        bar=1,
        aim=2,
        seconds=seconds,
        ours=spec("Cholesky factor of C's block", "Factor"),
        peers=[
            spec("conjugate gradients on the sparse reads", "ConjugateGradients"),
            *([spec("eigenvectors", "Eigenvectors", differs=differs)] if eigenvectors else []),
            spec("a later pass, factor kept", "KeptFactor", only_compared=True),
        ],
        shape=f"{shape.num_slots:,} slots, k {shape.top_k}, {shape.num_heads} heads, value_dim {shape.value_dim}, {BACKGROUND_TOKENS:,} background "
        f"tokens, {num_rows:,} rows; a fact's first step, from the reads to the rows' change",
        check=same_step_of_rows,
        budget=budget,
    )


def same_step_of_rows(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    different = [] if ours["chosen"].equal(theirs["chosen"]) else ["other rows are chosen"]
    return different or far_apart("step", ours["step"], theirs["step"], tolerance=1e-3)


def counting_row(device: str) -> Row:
    model = COUNTED_MODEL
    return compared_row(
        "counting",
        bound="min",
        bar=1.7,
        aim=1.9,
        seconds=25,
        ours=Spec(name="counting pass", contender="contenders.models:CountingPass", arguments={"device": device}),
        peers=[Spec(name="full forward pass", contender="contenders.models:FullPass", arguments={"device": device})],
        shape=f"{model.num_layers} layers of width {model.hidden_size}, memory at layer {model.memory.layers[0]} of 0 to {model.num_layers - 1}, "
        f"{model.memory.num_slots:,} slots of {model.memory.value_dim}, {COUNTED_BLOCKS} blocks of 128 tokens, fp32",
        check=same_counts,
    )


def memory_vs_dense_row(device: str) -> Row:
    def spec(name: str, architecture: str) -> Spec:
        arguments = {"device": device, "recipe": "laptop", "architecture": architecture}
        return Spec(name=name, contender="contenders.models:Pretraining", arguments=arguments)

    memory = LAPTOP_MODEL.memory
    return compared_row(
        "memory_vs_dense",
        bound="min",
        bar=0.85,
        aim=0.95,
        seconds=45,
        ours=spec("memory model", "memory"),
        peers=[spec("dense twin", "dense")],
        shape=f"recipe laptop: {LAPTOP_MODEL.num_layers} layers of width {LAPTOP_MODEL.hidden_size}, {memory.num_slots:,} slots of "
        f"{memory.value_dim}; {tokens_of_step('laptop'):,} tokens a step; DeepSpeed engine of one rank",
        check=None,
        tokens=tokens_of_step("laptop"),
        budget=Budget(seconds=25, most=40),
    )


def sweep_row(device: str) -> Row:
    return Row(
        name="sweep_overhead",
        unit="s",
        bound="max",
        bar=1.15,
        aim=1.05,
        seconds=260,
        run=lambda folder: run_sweeps(folder, device),
    )


def run_sweeps(folder: Path, device: str) -> Figures:
    """Measure half of the bare loop, the sweep, and the other half, so that gradual slowdowns of
    the machine affect both."""
    arguments = {"device": device, "folder": materials_folder(folder)}

    def process(name: str, kind: str) -> Process:
        return Process(Spec(name=name, contender=f"sweeps:{kind}", arguments=arguments), folder, timeout=600)

    with process("preparation of the sweep", "Preparation") as preparation:
        preparation.ask("repeat")
    with process("bare loop", "BareLoop") as bare:
        (first,) = in_turns([bare], Budget(fewest=1, most=1), warm_up=0)
        with process("sweep through Ray Tune", "RaySweep") as sweep:
            (ours,) = in_turns([sweep], Budget(fewest=1, most=1), warm_up=0)
            results = sweep.outputs()
        (second,) = in_turns([bare], Budget(fewest=1, most=1), warm_up=0)
        expected = bare.outputs()
    loop = first.median + second.median
    failures = []
    if results.keys() != expected.keys():
        failures.append(f"the sweep finished {len(results)} trials and the loop {len(expected)}, and not the same ones")
    differing = [key for key in results.keys() & expected.keys() if not results[key].equal(expected[key])]
    if differing:
        failures.append(f"{len(differing)} of {NUM_TRIALS} trials have other scores in the sweep than in the loop")
    return Figures(
        ours=ours.median,
        peer=loop,
        peer_name="bare loop of the same trials",
        ratio=ours.median / loop,
        conditions={
            "shape": f"{NUM_TRIALS} trials of the laptop recipe, {NUM_FACTS} facts x {NUM_PASSES} passes, random weights, one worker of one thread; "
            "wall time after ray.init, without MLflow",
            "halves_of_the_loop": [first.median, second.median],
        },
        failures=failures,
    )


def table_rows(device: str) -> list[Row]:
    """The table of the performance bars, in its order, on one kind of device."""
    return [
        search_row("search_256", 256, 2, 4, device),
        search_row("search_1024", 1024, 1.6, 2.5, device),
        layer_row("layer_64k", 256, 2, 4, 70, device),
        layer_row("layer_1m", 1024, 2.5, 4, 110, device),
        read_row(device),
        sparse_step_row(device),
        growth_row(device),
        decorrelated_row(500, 60, Budget(seconds=8), device, eigenvectors=True),
        decorrelated_row(2000, 120, Budget(seconds=8), device, eigenvectors=True),
        decorrelated_row(10_000, 180, Budget(fewest=1, most=1, warm_up=0), device, eigenvectors=False),
        counting_row(device),
        sweep_row(device),
        memory_vs_dense_row(device),
    ]
