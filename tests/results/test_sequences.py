"""Documents learned one by one, as a table."""

from typing import Any

from memlm.results.frontier_tables import format_table
from memlm.results.sequences import SEAL_ALONE, SEAL_IN_SEQUENCE, sequence_table
from tests.results.making import a_trial, frontier_of_trials, share

BEFORE = {"known_facts": share(1)}


def frontier(recipe: str, **scores: float) -> dict[str, Any]:
    extra = {f"new_facts_{name}": value for name, value in scores.items()}
    trials = [
        a_trial(method, 0.5, BEFORE, BEFORE, seed=seed, extra=extra, **{"optimizer.learning_rate": 2.0})
        for method in ("sparse_memory", "full")
        for seed in (0, 1)
    ]
    return {**frontier_of_trials(*trials), "recipe": recipe}


ALONE = {"start": 0.1, "start_f1": 0.2, "right_after": 0.4, "right_after_f1": 0.5}
EARLIER = {
    "earlier_start": 0.1,
    "earlier_start_f1": 0.15,
    "earlier_right_after": 0.5,
    "earlier_right_after_f1": 0.6,
    "earlier_end": 0.3,
    "earlier_end_f1": 0.45,
}


def test_a_sweep_over_facts_has_no_such_table():
    assert sequence_table(frontier("laptop")) is None
    assert "right after" not in format_table(frontier("laptop"))


def test_a_passage_alone_is_shown_next_to_seals_figures():
    table = sequence_table(frontier("smollm2_seal_alone", **ALONE))
    assert table is not None
    header, (first, second, *others) = table
    assert header == ["exact match / F1", "before", "right after the passage"]
    assert (
        first == ["Sparse memory, rate 2", "0.100 / 0.200", "0.400 / 0.500"] and second[0] == "Full finetuning, rate 2"
    )
    assert [row[1:] for row in others] == [[f"{before:.3f}", f"{after:.3f}"] for before, after in SEAL_ALONE.values()]
    assert all("Qwen2.5-7B with LoRA; share that GPT-4.1 judges right" in row[0] for row in others)


def test_a_sequence_shows_what_later_passages_do_to_earlier_ones():
    table = sequence_table(frontier("smollm2_seal", **ALONE, **EARLIER))
    assert table is not None
    header, (first, _, seal) = table
    assert len(header) == len(first) == len(seal) == 7
    assert first[3:] == ["0.100 / 0.150", "0.500 / 0.600", "0.300 / 0.450", "-0.200 / -0.150"]
    assert seal[3:] == ["0.315", "0.425", "0.234", "-0.191"], SEAL_IN_SEQUENCE
    printed = format_table(frontier("smollm2_seal", **ALONE, **EARLIER))
    assert "-0.200 / -0.150" in printed and "SEAL, rewrites by SEAL" in printed


def test_figures_of_seal_stand_next_to_its_own_passages_alone():
    table = sequence_table(frontier("mine", **ALONE, **EARLIER))
    assert table is not None and len(table[1]) == 2
