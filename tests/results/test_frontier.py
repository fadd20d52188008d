import csv
import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from memlm.results.frontier import build_frontier
from memlm.results.frontier_csv import write_csv
from memlm.results.scores import ScoreError, SetScore, TrialResult

Measure = Literal["exact_match", "f1", "accuracy", "nats_per_token"]


def accuracy(value: float, *, chance: float = 0.0, num_items: int = 20, task: str = "known_facts@1") -> SetScore:
    right = round(value * num_items)
    items = (1.0,) * right + (0.0,) * (num_items - right)
    return SetScore(task=task, measure="exact_match", chance=chance, items=items)


def loss(*items: float) -> SetScore:
    return SetScore(task="background@1", measure="nats_per_token", chance=0.0, items=items)


def trial(
    method: str,
    learning: float | SetScore,
    start: dict[str, SetScore],
    end: dict[str, SetScore],
    *,
    seed: int = 0,
    extra: dict[str, float] | None = None,
    **hyperparameters: float | int | str,
) -> TrialResult:
    new_facts = learning if isinstance(learning, SetScore) else accuracy(learning)
    return TrialResult(
        key=f"{method}-{hyperparameters}-{seed}",
        method=method,
        hyperparameters=hyperparameters,
        seed=seed,
        start={"new_facts": accuracy(0, num_items=len(new_facts.items))} | start,
        end={"new_facts": new_facts} | end,
        extra=extra or {},
    )


def simple(method: str, learning: float, forgetting: float, *, seed: int = 0, **hyperparameters: float) -> TrialResult:
    """Chance 0 and a perfect start, so that forgetting is one minus the end."""
    known = {"known_facts": accuracy(1)}, {"known_facts": accuracy(1 - forgetting)}
    return trial(method, learning, *known, seed=seed, **hyperparameters)


def build(*trials: TrialResult, samples: int = 50) -> dict[str, Any]:
    return build_frontier("laptop", trials, samples=samples)


SIX = [(0.2, 0.1), (0.4, 0.1), (0.5, 0.3), (0.6, 0.2), (0.9, 0.8), (0.9, 0.7)]


def test_six_settings_by_hand() -> None:
    frontier = build(*(simple("full", *point, lr=float(i)) for i, point in enumerate(SIX)))
    on = {(p["learning"], p["forgetting"]) for p in frontier["points"] if p["on_frontier"]}
    assert on == {(0.4, 0.1), (0.6, 0.2), (0.9, 0.7)}
    assert frontier["hypervolume"] == {"full": pytest.approx(0.61)}
    assert frontier["forgetting_sets"] == ["known_facts"]
    assert frontier["matched"] == []  # neither of the other two compared methods is there


def test_forgetting_is_the_mean_relative_drop_over_held_out_sets() -> None:
    start = {"known_facts": accuracy(0.8, chance=0.2), "background": loss(1.0, 3.0)}
    end = {"known_facts": accuracy(0.5, chance=0.2), "background": loss(2.0, 3.0)}
    point = build(trial("lora", 0.3, start, end))["points"][0]
    assert point["sets"]["known_facts"]["drop"] == pytest.approx((0.8 - 0.5) / (0.8 - 0.2))
    assert point["sets"]["background"]["drop"] == pytest.approx((2.5 - 2.0) / 2.0)
    assert point["forgetting"] == pytest.approx((0.5 + 0.25) / 2)
    assert point["learning"] == pytest.approx(0.3)
    assert point["scores"] == {"new_facts": 0.3, "known_facts": 0.5, "background": 2.5}


@pytest.mark.parametrize(("end", "drop", "forgetting"), [(1.0, -0.25, 0.0), (0.0, 85 / 60, 85 / 60)])
def test_a_gain_is_a_negative_drop_and_pays_for_no_loss(end: float, drop: float, forgetting: float) -> None:
    """Below chance is worse than having forgotten everything."""
    start = {"known_facts": accuracy(0.85, chance=0.25, num_items=60), "sums": accuracy(0.5)}
    after = {"known_facts": accuracy(end, chance=0.25, num_items=60), "sums": accuracy(0.4)}
    point = build(trial("full", 0.5, start, after))["points"][0]
    assert point["sets"]["known_facts"]["drop"] == pytest.approx(drop)
    assert point["forgetting"] == pytest.approx((forgetting + 0.2) / 2)


def test_points_are_means_over_seeds_and_extras_are_kept() -> None:
    known = {"known_facts": accuracy(1)}, {"known_facts": accuracy(0.9)}
    trials = [
        trial("lora", value, *known, seed=s, extra={"seconds": 10.0 * s}, rank=16)
        for s, value in enumerate((0.4, 0.5, 0.9))
    ]
    (point,) = build(*trials)["points"]
    assert point["seeds"] == [0, 1, 2]
    assert point["hyperparameters"] == {"rank": 16}
    assert point["learning"] == pytest.approx(0.6)
    assert point["scores"]["seconds"] == pytest.approx(10.0)


def test_set_that_one_model_starts_near_chance_on_is_left_out_for_every_method() -> None:
    def scores(known: float, arithmetic: float) -> dict[str, SetScore]:
        return {"known_facts": accuracy(known), "arithmetic": accuracy(arithmetic, chance=0.25, num_items=100)}

    memory = trial("sparse_memory", 0.5, scores(1, 0.29), scores(0.9, 0.29))
    dense = trial("full", 0.5, scores(1, 0.75), scores(0.8, 0.25))
    frontier = build(memory, dense)
    assert frontier["forgetting_sets"] == ["known_facts"]
    points = {point["method"]: point for point in frontier["points"]}
    assert points["full"]["forgetting"] == pytest.approx(0.2)  # 0.6 with the set
    assert points["sparse_memory"]["forgetting"] == pytest.approx(0.1)
    assert points["full"]["scores"]["arithmetic"] == 0.25
    assert not points["full"]["sets"]["arithmetic"]["counted"]
    enough = trial("sparse_memory", 0.5, scores(1, 0.35), scores(0.9, 0.29))
    assert build(enough, dense)["forgetting_sets"] == ["known_facts", "arithmetic"]
    # 0.05 above chance, and of a hundred items one standard error, which may be luck.
    lucky = trial("sparse_memory", 0.5, scores(1, 0.30), scores(0.9, 0.29))
    assert build(lucky, dense)["forgetting_sets"] == ["known_facts"]


def test_a_margin_counts_that_is_neither_small_nor_luck() -> None:
    score = SetScore(task="a@1", measure="accuracy", chance=0.25, items=(1.0,) * 30 + (0.0,) * 70)
    assert score.standard_errors_above_chance == pytest.approx(0.05 / (0.3 * 0.7 / 100) ** 0.5)
    assert loss(1.0, 3.0).standard_errors_above_chance == float("inf")


def test_no_set_left_to_measure_forgetting_on() -> None:
    with pytest.raises(ScoreError, match="pretrain for longer or add a set measured in nats"):
        build(trial("full", 0.5, {"known_facts": accuracy(0)}, {"known_facts": accuracy(0)}))


def test_matched_levels_are_those_that_all_compared_methods_reach() -> None:
    ends = {
        "sparse_memory": [(0.25, 0.05), (0.85, 0.2)],
        "lora": [(0.35, 0.2), (0.75, 0.6)],
        "full": [(0.1, 0.1), (0.5, 0.3), (0.9, 0.7)],
        "replay": [(0.3, 0.0), (0.5, 0.1)],
    }
    frontier = build(*(simple(m, *point, lr=float(i)) for m, points in ends.items() for i, point in enumerate(points)))
    assert [row["learning"] for row in frontier["matched"]] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    by_level = {row["learning"]: row["methods"] for row in frontier["matched"]}
    assert by_level[0.1]["sparse_memory"]["forgetting"] == pytest.approx(0.05 * 0.1 / 0.25)
    assert by_level[0.4]["sparse_memory"]["forgetting"] == pytest.approx(0.05 + 0.15 * 0.15 / 0.6)
    assert by_level[0.6]["lora"]["forgetting"] == pytest.approx(0.2 + 0.4 * 0.25 / 0.4)
    assert by_level[0.6]["full"]["forgetting"] == pytest.approx(0.3 + 0.4 * 0.1 / 0.4)
    assert by_level[0.5]["replay"]["forgetting"] == pytest.approx(0.1)
    assert "replay" not in by_level[0.6]
    partly = {row["learning"]: sorted(row["methods"]) for row in frontier["partly_matched"]}
    assert partly == {0.8: ["full", "sparse_memory"], 0.9: ["full"]}


def test_on_frontier_is_per_method_and_on_joint_frontier_over_all() -> None:
    frontier = build(simple("sparse_memory", 0.8, 0.1), simple("full", 0.7, 0.5), simple("lora", 0.9, 0.6))
    flags = {point["method"]: (point["on_frontier"], point["on_joint_frontier"]) for point in frontier["points"]}
    assert flags == {"sparse_memory": (True, True), "lora": (True, True), "full": (True, False)}


def test_start_is_reported_separately_and_is_not_a_point() -> None:
    frontier = build(simple("full", 0.7, 0.5))
    assert frontier["start"] == {"full": {"learning": 0.0, "known_facts": 1.0}}
    assert len(frontier["points"]) == 1


def test_interval_of_a_sample_without_variation_is_its_value() -> None:
    known = (
        {"known_facts": accuracy(1)},
        {"known_facts": SetScore(task="known_facts@1", measure="exact_match", chance=0, items=(0.5,) * 20)},
    )
    (point,) = build(*(trial("full", 1.0, *known, seed=seed) for seed in range(3)))["points"]
    assert point["learning_ci"] == [1.0, 1.0]
    assert point["forgetting_ci"] == pytest.approx([0.5, 0.5])


def test_interval_covers_seeds_when_items_do_not_vary() -> None:
    """One in 27 resamples is one seed three times, so the interval runs from the worst of three
    seeds to the best."""
    known = {"known_facts": accuracy(1)}, {"known_facts": accuracy(1)}
    constant = [SetScore(task="new@1", measure="f1", chance=0, items=(value,) * 20) for value in (0.3, 0.5, 0.7)]
    trials = [trial("full", score, *known, seed=seed) for seed, score in enumerate(constant)]
    trials = [dataclasses.replace(t, start=t.start | {"new_facts": constant[0]}) for t in trials]
    (point,) = build(*trials, samples=2000)["points"]
    assert point["learning_ci"] == pytest.approx([0.3, 0.7])


def test_start_and_end_of_an_item_stay_paired() -> None:
    """A set on which every answer stays as it was has lost nothing, whichever questions are
    drawn."""
    known = {"known_facts": accuracy(0.6)}
    (point,) = build(trial("full", 0.5, known, known))["points"]
    assert point["forgetting_ci"] == [0.0, 0.0]
    assert point["learning_ci"][0] < 0.5 < point["learning_ci"][1]


def test_settings_and_methods_stay_paired() -> None:
    """The same answers give the same interval, and so a difference of exactly nothing."""
    frontier = build(*(simple(method, 0.5, 0.3, lr=lr) for method in ("lora", "full") for lr in (1.0, 2.0)))
    assert len({json.dumps([p["learning_ci"], p["forgetting_ci"]]) for p in frontier["points"]}) == 1


def test_seeds_share_held_out_questions_so_more_seeds_do_not_narrow_their_interval() -> None:
    one, three = (build(*(simple("full", 0.5, 0.5, seed=s) for s in range(n)), samples=2000) for n in (1, 3))
    widths = [np.diff(frontier["points"][0]["forgetting_ci"])[0] for frontier in (one, three)]
    assert widths[0] == pytest.approx(widths[1], abs=1e-9)


def test_intervals_have_their_nominal_coverage_and_are_not_too_wide() -> None:
    rng = np.random.default_rng(0)
    truth, spread, num_items, repeats, covered, widths = 0.6, 0.05, 80, 200, 0, []
    known = {"known_facts": accuracy(1)}, {"known_facts": accuracy(1)}
    for _ in range(repeats):
        drawn = rng.random((3, num_items)) < rng.normal(truth, spread, size=(3, 1))
        answers = [
            SetScore(task="new@1", measure="exact_match", chance=0, items=tuple(row)) for row in drawn.astype(float)
        ]
        start = {"new_facts": answers[0]} | known[0]
        trials = [dataclasses.replace(trial("full", s, *known, seed=i), start=start) for i, s in enumerate(answers)]
        low, high = build_frontier("laptop", trials, samples=200)["points"][0]["learning_ci"]
        covered += low <= truth <= high
        widths.append(high - low)
    exact_width = 2 * 1.96 * np.sqrt((spread**2 + truth * (1 - truth) / num_items) / 3)
    assert covered / repeats >= 0.9
    assert 0.9 * exact_width < np.mean(widths) < 1.25 * exact_width


def test_matched_interval_holds_the_value_and_says_how_many_resamples_reach_the_level() -> None:
    points = {"sparse_memory": (0.05, 0.1), "lora": (0.2, 0.4), "full": (0.3, 0.5)}
    trials = [
        simple(method, learning, forgetting, seed=seed, lr=learning)
        for method, pair in points.items()
        for learning, forgetting in zip((0.2, 0.6), pair, strict=True)
        for seed in range(3)
    ]
    (row,) = [row for row in build(*trials, samples=1000)["matched"] if row["learning"] == 0.5]
    for value in row["methods"].values():
        assert value["ci"][0] < value["forgetting"] < value["ci"][1]
        assert 0.8 < value["reached"] < 1  # 20 items: a few resamples do not learn half


def test_setting_without_one_of_the_seeds_is_averaged_over_its_own() -> None:
    trials = [
        simple("full", 0.4, 0.2, seed=0, lr=1.0),
        simple("full", 0.6, 0.2, seed=1, lr=1.0),
        simple("full", 0.8, 0.3, lr=2.0),
    ]
    points = build(*trials)["points"]
    assert [(p["seeds"], p["learning"]) for p in points] == [([0, 1], 0.5), ([0], 0.8)]


def test_result_does_not_depend_on_the_order_of_trials_and_is_plain_json(tmp_path: Path) -> None:
    trials = [simple(m, *point, lr=float(i)) for m in ("lora", "full", "sparse_memory") for i, point in enumerate(SIX)]
    text = json.dumps(build(*trials), allow_nan=False)
    assert text == json.dumps(build(*reversed(trials)), allow_nan=False)
    assert text != json.dumps(build_frontier("laptop", trials, samples=50, seed=1), allow_nan=False)
    assert [p["method"] for p in json.loads(text)["points"]] == ["sparse_memory"] * 6 + ["lora"] * 6 + ["full"] * 6


def test_trial_goes_through_json() -> None:
    original = trial(
        "lora", 0.3, {"background": loss(1.5, 2.5)}, {"background": loss(2.0, 2.0)}, rank=8, extra={"seconds": 3.0}
    )
    assert TrialResult.from_json(json.loads(json.dumps(original.to_json()))) == original
    of_a_pair = dataclasses.replace(original, checkpoint="w3p1")
    assert TrialResult.from_json(json.loads(json.dumps(of_a_pair.to_json()))) == of_a_pair


def test_a_trial_from_before_checkpoints_had_names_is_read() -> None:
    original = simple("lora", 0.5, 0.2)
    written = {name: value for name, value in original.to_json().items() if name != "checkpoint"}
    assert TrialResult.from_json(written) == original
    with pytest.raises(ScoreError, match="checkpoint is of the wrong type"):
        TrialResult.from_json({**written, "checkpoint": 3})


def test_csv_has_a_row_per_point_with_the_hyperparameters_of_all_methods(tmp_path: Path) -> None:
    write_csv(
        build(simple("sparse_memory", 0.5, 0.1, lr=2.0, t=500), simple("lora", 0.5, 0.3, rank=16)), tmp_path / "f.csv"
    )
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["method", "hyperparameters.lr", "hyperparameters.t", "hyperparameters.rank"]
    assert [(row["method"], row["hyperparameters.t"], row["hyperparameters.rank"]) for row in rows] == [
        ("sparse_memory", "500", ""),
        ("lora", "", "16"),
    ]
    assert float(rows[1]["average_drop"]) == float(rows[1]["drop.known_facts"]) == pytest.approx(0.3)
    for name in ("average_drop", "drop.known_facts"):
        assert float(rows[1][f"{name}_low"]) < 0.3 < float(rows[1][f"{name}_high"])
    assert list(rows[0]).index("drop.known_facts") < list(rows[0]).index("average_drop")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"items": ()}, "one or more items"),
        ({"items": (0.5, float("nan"))}, "all finite"),
        ({"items": (55.0,)}, "divide percentages by 100"),
        ({"measure": "bleu"}, "is not one of exact_match, f1, accuracy, nats_per_token"),
    ],
)
def test_set_score_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        SetScore(**{"task": "known_facts@1", "measure": "exact_match", "chance": 0.0, "items": (1.0,)} | fields)


def test_trials_that_cannot_be_compared_are_refused() -> None:
    good = simple("full", 0.5, 0.1)
    other_version = trial("lora", 0.5, *({"known_facts": accuracy(1, task="known_facts@2")},) * 2)
    fewer_items = trial("lora", 0.5, {"known_facts": accuracy(1)}, {"known_facts": accuracy(1, num_items=10)})
    no_new_facts = dataclasses.replace(good, start={"known_facts": accuracy(1)}, end={"known_facts": accuracy(1)})
    clash = dataclasses.replace(good, method="lora", extra={"known_facts": 1.0})
    for trials, message in [
        ((), "at least one finished trial"),
        ((good, other_version), "same sets and task versions"),
        ((good, fewer_items), "same items"),
        ((no_new_facts,), "named 'new_facts'"),
        ((good, good), "appears twice"),
        ((good, clash), "names of sets"),
    ]:
        with pytest.raises(ScoreError, match=message):
            build(*trials)


def test_old_answers_that_updates_replace_never_count_as_forgetting() -> None:
    before = {"old_answers": accuracy(1), "same_subject": accuracy(1)}
    after = {"old_answers": accuracy(0), "same_subject": accuracy(1)}
    frontier = build(trial("full", 0.5, before, after))
    assert frontier["forgetting_sets"] == ["same_subject"]
    (point,) = frontier["points"]
    assert point["forgetting"] == 0
    assert point["sets"]["old_answers"]["drop"] == 1
