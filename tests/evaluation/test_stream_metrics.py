import numpy as np
import pytest

from memlm.evaluation.fact_scores import FactScore
from memlm.evaluation.stream_metrics import CurvePoint, FactTrace, jaccard, stream_metrics


def score(right: float, nats: float, seen: tuple[float, float] | None = None) -> FactScore:
    return FactScore(
        exact_match=right,
        nats_per_token=nats,
        seen_exact_match=seen[0] if seen else None,
        seen_nats_per_token=seen[1] if seen else None,
    )


def trace(step, after, end, *, start=(0.0, 3.0), slots=None, seen=None):
    return FactTrace(
        fact_id=f"fact {step}",
        step=step,
        start=score(*start, seen),
        after=score(*after, seen),
        end=score(*end, seen),
        slots=slots,
    )


def test_metrics_by_hand():
    """Four facts: the first is forgotten, the second half forgotten, the third gains. The last has
    no fact after it, so its score does not count."""
    traces = [
        trace(4, (1.0, 0.1), (0.0, 9.0)),
        trace(1, (1.0, 0.2), (0.0, 1.2)),
        trace(3, (0.0, 1.0), (1.0, 0.5)),
        trace(2, (1.0, 0.4), (0.5, 0.4)),
    ]
    metrics = stream_metrics(traces, [])
    assert metrics["exact_match"]["right_after"]["mean"] == 0.75
    assert metrics["exact_match"]["end"]["mean"] == 0.375
    assert metrics["exact_match"]["backward_transfer"]["mean"] == pytest.approx((-1 - 0.5 + 1) / 3)
    assert metrics["exact_match"]["forgetting"]["mean"] == pytest.approx(0.5)
    assert metrics["nats_per_token"]["backward_transfer"]["mean"] == pytest.approx((-1 - 0 + 0.5) / 3)
    assert metrics["nats_per_token"]["forgetting"]["mean"] == pytest.approx(1 / 3)
    assert metrics["exact_match"]["forgetting"]["num_facts"] == 3
    ages = [(age["from_age"], age["to_age"], age["exact_match"]["mean"]) for age in metrics["forgetting_by_age"]]
    assert ages == [(1, 1, 0.0), (2, 2, 0.5), (3, 3, 1.0)]
    assert [fact["id"] for fact in metrics["facts"]] == ["fact 1", "fact 2", "fact 3", "fact 4"]
    assert metrics["shared_slots"] is None and metrics["paraphrase_gap"]["num_facts"] == 0


def test_ages_fill_bins_of_nearly_one_size_and_each_fact_counts_once():
    traces = [trace(step, (1.0, 0.0), (0.0 if step <= 40 else 1.0, 0.0)) for step in range(1, 101)]
    ages = stream_metrics(traces, [], samples=20)["forgetting_by_age"]
    assert [(age["from_age"], age["to_age"]) for age in ages] == [(1, 20), (21, 40), (41, 60), (61, 80), (81, 99)]
    assert [age["exact_match"]["mean"] for age in ages] == [0, 0, pytest.approx(1 / 20), 1, 1]


def test_one_fact_has_no_later_facts():
    metrics = stream_metrics([trace(1, (1.0, 0.1), (1.0, 0.1), slots=(1, 2))], [])
    assert metrics["exact_match"]["backward_transfer"] is None and metrics["forgetting_by_age"] == []
    assert metrics["exact_match"]["end"]["mean"] == 1 and metrics["shared_slots"] is None


def test_no_facts_are_refused():
    with pytest.raises(ValueError, match="traces is empty"):
        stream_metrics([], [])


def test_paraphrase_gap_compares_the_facts_that_have_a_seen_wording():
    traces = [
        trace(1, (0.0, 2.0), (0.0, 2.5), seen=(1.0, 0.5)),
        trace(2, (1.0, 1.0), (1.0, 1.5), seen=(1.0, 0.5)),
        trace(3, (0.0, 9.0), (0.0, 9.0)),
    ]
    gap = stream_metrics(traces, [])["paraphrase_gap"]
    assert gap["num_facts"] == 2
    assert gap["after"]["exact_match"]["mean"] == 0.5
    assert gap["after"]["nats_per_token"]["mean"] == pytest.approx(1.0)
    assert gap["end"]["nats_per_token"]["mean"] == pytest.approx(1.5)


def test_intervals_hold_the_mean_and_shrink_with_the_number_of_facts():
    def width(num_facts):
        traces = [trace(step, (float(step % 2), 0.0), (0.0, 0.0)) for step in range(1, num_facts + 1)]
        found = stream_metrics(traces, [])["exact_match"]["right_after"]
        assert found["ci"][0] < found["mean"] < found["ci"][1]
        return found["ci"][1] - found["ci"][0]

    assert width(400) == pytest.approx(4 * 0.5 / 400**0.5, rel=0.15)  # two standard errors to each side
    assert width(400) < width(40) / 2.5


def test_the_document_does_not_depend_on_the_order_of_the_traces_and_repeats():
    traces = [trace(step, (float(step % 3 == 0), step / 7), (0.0, 1.0), slots=(step, step + 1)) for step in range(1, 9)]
    curve = [CurvePoint(step=0, exact_match=0.0, nats_per_token=1.0, held_out={"known": 0.5})]
    assert stream_metrics(traces, curve) == stream_metrics(traces[::-1], curve)


def test_shared_slots_by_hand():
    slots = [(1, 2, 3), (2, 3, 4), (9,)]
    traces = [trace(step, (1.0, 0.0), (1.0, 0.0), slots=chosen) for step, chosen in enumerate(slots, 1)]
    shared = stream_metrics(traces, [], samples=100)["shared_slots"]
    assert shared["matrix"] == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    assert shared["jaccard"]["mean"] == pytest.approx(0.5 / 3)
    assert shared["rewritten_share"]["mean"] == pytest.approx((2 / 3 + 0) / 2)
    assert shared["slots_of_all"] == 5 and shared["slots_per_fact"]["mean"] == pytest.approx(7 / 3)
    assert shared["first_facts"] == ["fact 1", "fact 2", "fact 3"]


def test_jaccard_equals_its_definition_over_several_portions_of_slots():
    random = np.random.default_rng(0)
    sets = [set(random.choice(20_000, size=900, replace=False).tolist()) for _ in range(9)]
    sets[4] = set(sets[2])
    found = jaccard([sorted(one) for one in sets])
    wanted = [[len(one & other) / len(one | other) for other in sets] for one in sets]
    assert np.allclose(found, wanted) and found[2, 4] == 1
    assert len(set().union(*sets)) > 4096
