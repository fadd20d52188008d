import numpy as np
import pytest

from memlm.results.bootstrap import Resamples, interval
from memlm.results.scores import SetScore
from tests.results.making import a_trial, frontier_of_trials, lost, nats, random_trials, right, share


def row_of(frontier: dict, method: str, against: str, *, name: str = "known_facts", learning: float = 0.5) -> dict:
    (row,) = [
        row
        for row in frontier["paired"]
        if (row["set"], row["method"], row["against"], row["learning"]) == (name, method, against, learning)
    ]
    return row


def forgets(method: str, number: int) -> list:
    """Three seeds that learn half of the facts and forget the first `number` of 60 known facts."""
    known = {"known_facts": share(1, 60)}, {"known_facts": right(*(0.0,) * number, *(1.0,) * (60 - number))}
    return [a_trial(method, 0.5, *known, seed=seed, rate=1.0) for seed in range(3)]


def test_a_paired_difference_excludes_0_where_intervals_overlap() -> None:
    """Whatever sparse memory forgets, full finetuning forgets too: 12 of 60 facts against 18."""
    frontier = frontier_of_trials(*forgets("sparse_memory", 12), *forgets("full", 18), samples=2000)
    (row,) = [row for row in frontier["matched"] if row["learning"] == 0.5]
    sparse, full = (row["methods"][method]["sets"]["known_facts"]["ci"] for method in ("sparse_memory", "full"))
    assert sparse[1] > full[0]
    paired = row_of(frontier, "sparse_memory", "full")
    assert paired["difference"] == pytest.approx(-0.1) and paired["ratio"] == pytest.approx(12 / 18)
    low, high = paired["ci"]
    assert -0.25 < low < -0.1 < high < 0


def test_both_orders_of_a_pair_mirror_each_other() -> None:
    frontier = frontier_of_trials(*forgets("sparse_memory", 12), *forgets("full", 18))
    forth, back = row_of(frontier, "sparse_memory", "full"), row_of(frontier, "full", "sparse_memory")
    assert back["difference"] == -forth["difference"] and back["ratio"] == pytest.approx(1.5)
    assert back["ci"] == [-forth["ci"][1], -forth["ci"][0]] and back["reached"] == forth["reached"]
    units = {row["set"]: row["unit"] for row in frontier["paired"]}
    assert units == {"known_facts": "share lost above chance", "known_facts_kept": "share of right answers lost"}


def test_answers_found_anew_do_not_offset_those_lost() -> None:
    """Both methods answered 40 questions. One loses 10 of them and answers 10 others; the other
    loses 20 and answers no others."""
    start = {"known_facts": right(*(1.0,) * 40, *(0.0,) * 20)}
    swaps = {"known_facts": right(*(0.0,) * 10, *(1.0,) * 40, *(0.0,) * 10)}
    loses = {"known_facts": right(*(0.0,) * 20, *(1.0,) * 20, *(0.0,) * 20)}
    trials = [
        a_trial(method, 0.5, start, end, seed=seed)
        for method, end in (("sparse_memory", swaps), ("full", loses))
        for seed in range(3)
    ]
    frontier = frontier_of_trials(*trials, samples=500)
    net, gross = (row_of(frontier, "sparse_memory", "full", name=name) for name in ("known_facts", "known_facts_kept"))
    assert (net["ratio"], net["difference"]) == (0.0, pytest.approx(-0.5))
    assert (gross["ratio"], gross["difference"]) == (pytest.approx(0.5), pytest.approx(-0.25))


def test_the_interval_of_a_ratio_covers_it_and_is_left_out_where_a_resample_loses_nothing() -> None:
    frontier = frontier_of_trials(*forgets("sparse_memory", 12), *forgets("full", 18), samples=2000)
    low, high = row_of(frontier, "sparse_memory", "full")["ratio_ci"]
    assert 0.4 < low < 12 / 18 < high <= 1
    frontier = frontier_of_trials(*forgets("sparse_memory", 12), *forgets("full", 1), samples=2000)
    row = row_of(frontier, "sparse_memory", "full")
    assert (row["ratio"], row["ratio_ci"]) == (pytest.approx(12), None)


def test_a_loss_is_compared_by_its_rise_in_nats() -> None:
    """Both rise by a fifth of what they knew better than chance, but from other starts."""
    trials = [
        a_trial(method, 0.5, {"text": nats(start, start)}, {"text": nats(end, end)})
        for method, start, end in (("sparse_memory", 3.0, 3.4), ("lora", 4.0, 4.2))
    ]
    frontier = frontier_of_trials(*trials)
    drops = {point["method"]: point["sets"]["text"]["drop"] for point in frontier["points"]}
    assert drops == {"sparse_memory": pytest.approx(0.2), "lora": pytest.approx(0.2)}
    row = row_of(frontier, "sparse_memory", "lora", name="text")
    assert (row["unit"], row["ratio"], row["difference"]) == ("nats per token", pytest.approx(2), pytest.approx(0.2))


def test_there_is_a_row_for_each_ordered_pair_at_each_tenth_that_both_reach() -> None:
    frontier = frontier_of_trials(lost("sparse_memory", 0.35, 0.1), lost("lora", 0.2, 0.1), lost("full", 0.3, 0.2))
    rows = [row for row in frontier["paired"] if row["set"] == "known_facts"]
    found = {(row["method"], row["against"]): [] for row in rows}
    for row in rows:
        found[row["method"], row["against"]].append(row["learning"])
    assert found == {
        ("sparse_memory", "lora"): [0.1, 0.2],
        ("lora", "sparse_memory"): [0.1, 0.2],
        ("sparse_memory", "full"): [0.1, 0.2, 0.3],
        ("full", "sparse_memory"): [0.1, 0.2, 0.3],
        ("lora", "full"): [0.1, 0.2],
        ("full", "lora"): [0.1, 0.2],
    }


def test_a_ratio_needs_a_loss_to_divide_by() -> None:
    frontier = frontier_of_trials(lost("sparse_memory", 0.5, 0.1), lost("full", 0.5, 0.0))
    assert row_of(frontier, "sparse_memory", "full")["ratio"] is None
    assert row_of(frontier, "full", "sparse_memory")["ratio"] == 0.0


def test_reached_is_the_share_of_resamples_in_which_both_reach_the_level() -> None:
    """The methods know different halves of ten facts, so that they rarely learn enough together."""
    first, second = (right(*(1.0,) * 5, *(0.0,) * 5), right(*(0.0,) * 5, *(1.0,) * 5))
    known = {"known_facts": share(1)}, {"known_facts": share(0.9)}
    trials = [a_trial(method, learned, *known) for method, learned in (("sparse_memory", first), ("full", second))]
    frontier = frontier_of_trials(*trials, samples=4000)
    (row,) = [row for row in frontier["matched"] if row["learning"] == 0.5]
    counts = np.random.default_rng(1).binomial(10, 0.5, size=10**6)
    for value in row["methods"].values():
        assert value["reached"] == pytest.approx((counts >= 5).mean(), abs=0.03)
    assert row_of(frontier, "sparse_memory", "full")["reached"] == pytest.approx((counts == 5).mean(), abs=0.03)


# --- Against a plain loop ---


def mean(score: SetScore, weights: np.ndarray) -> float:
    return float(np.dot(score.items, weights) / weights.sum())


def test_a_difference_is_what_a_loop_over_resamples_computes() -> None:
    """Two checkpoints, three seeds, two settings: every resample by hand, on the same draws."""
    trials = random_trials(checkpoints=("a", "b"))
    samples, level = 60, 0.6
    frontier = frontier_of_trials(*trials, samples=samples)
    chosen = {
        (point["method"], point["hyperparameters"]["rate"]) for point in frontier["points"] if point["on_frontier"]
    }
    draws = Resamples(samples, 0, ["a", "b"])

    def of_draw(trial, checkpoint: str, draw: int) -> tuple[float, float, float]:
        """Untrained, learned, and the rise of the likelihood of known facts, weighed by the seed's
        draws."""
        items = draws.counts("items of new_facts", 20, checkpoint)[:, draw]
        known = draws.counts("items of known_facts_nats", 30, checkpoint)[:, draw]
        rise = mean(trial.end["known_facts_nats"], known) - mean(trial.start["known_facts_nats"], known)
        return mean(trial.start["new_facts"], items), mean(trial.end["new_facts"], items), rise

    def of_setting(method: str, rate: float, resample: int) -> np.ndarray:
        parts = []
        for checkpoint in ("a", "b"):
            for draw in np.flatnonzero(draws.resamples_of(checkpoint) == resample):
                weights = draws.counts("seeds", 3, checkpoint)[:, draw]
                own = [
                    trial
                    for trial in trials
                    if (trial.method, trial.hyperparameters["rate"], trial.checkpoint) == (method, rate, checkpoint)
                ]
                values = np.array([of_draw(trial, checkpoint, draw) for trial in own])
                parts.append(weights[[trial.seed for trial in own]] @ values / weights.sum())
        assert len(parts) == 2
        return np.mean(parts, axis=0)

    def at_level(method: str, resample: int) -> float:
        measured = [of_setting(method, rate, resample) for each, rate in sorted(chosen) if each == method]
        line = [(measured[0][0], 0.0), *sorted((learned, rise) for _, learned, rise in measured)]
        if line[-1][0] >= level:
            return float(np.interp(level, *zip(*line, strict=True)))
        (x1, y1), (x2, y2) = line[-2:]
        assert x2 - x1 > 0.05
        return y2 + (y2 - y1) / (x2 - x1) * (level - x2)

    for method, against in (("sparse_memory_ours", "sparse_memory"), ("sparse_memory", "full")):
        row = row_of(frontier, method, against, name="known_facts_nats", learning=level)
        expected = np.array([at_level(method, each) - at_level(against, each) for each in range(1 + samples)])
        assert row["difference"] == pytest.approx(expected[0], abs=1e-9)
        assert row["ci"] == pytest.approx(interval(expected), abs=1e-9)


def test_each_of_several_checkpoints_says_what_it_gives_alone():
    trials = random_trials(checkpoints=("0", "1"))
    rows = frontier_of_trials(*trials)["paired"]
    assert rows
    for name in ("0", "1"):
        alone = frontier_of_trials(*(trial for trial in trials if trial.checkpoint == name))["paired"]
        assert all("by_checkpoint" not in row for row in alone)
        said = {(row["set"], row["learning"], row["method"], row["against"]): row for row in alone}
        for row in rows:
            own = said.get((row["set"], row["learning"], row["method"], row["against"]))
            found = row["by_checkpoint"][name]
            assert (found is None) == (own is None)
            assert own is None or (found == {key: own[key] for key in found} and found["ratio"] == own["ratio"])
