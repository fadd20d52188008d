import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from memlm.results.frontier import build_frontier
from memlm.results.frontier_picture import draw_frontier, draw_frontiers, figure_of
from memlm.results.frontier_tables import (
    PAPER_FORGETTING,
    format_table,
    matched_tables,
    paired_tables,
    point_cells,
    shown_levels,
    shown_pairs,
)
from memlm.results.looks import look_of
from memlm.results.report import write_report
from memlm.results.scores import FailedSetting, SetScore, TrialResult
from tests.results.making import frontier_of_trials, lost, random_trials

STAGES = {
    "prepare_corpus": {"seconds": 8.26, "command": "python pipelines/prepare_corpus.py"},
    "pretrain": {"seconds": 431.2, "peak_memory_gb": 3.25, "command": "python pipelines/pretrain.py --name 'a<b'"},
}
CURVES = {"sparse_memory": (0.05, 0.15), "lora": (0.2, 0.6), "full": (0.1, 0.5), "tf_ranking": (0.1, 0.2)}


def accuracy(value: float, *, chance: float = 0.0) -> SetScore:
    right = round(value * 20)
    items = (1.0,) * right + (0.0,) * (20 - right)
    return SetScore(task="known_facts@1", measure="exact_match", chance=chance, items=items)


def trial(method: str, learning: float, forgetting: float, setting: str) -> TrialResult:
    arithmetic = accuracy(0.25, chance=0.25)
    return TrialResult(
        key=f"{method}-{setting}",
        method=method,
        hyperparameters={"lr": 5e-05, "setting": setting},
        seed=0,
        start={"new_facts": accuracy(0), "known_facts": accuracy(1), "arithmetic": arithmetic},
        end={"new_facts": accuracy(learning), "known_facts": accuracy(1 - forgetting), "arithmetic": arithmetic},
        extra={"seconds": 12.0, "seconds_learning": 8.0, "steps": 800.0},
    )


@pytest.fixture(scope="module")
def frontier() -> dict[str, Any]:
    """Two settings a method, at 40 % and 80 % learned: at 60 % each method forgets the mean of
    its pair."""
    trials = [
        trial(method, learning, forgetting, setting)
        for method, pair in CURVES.items()
        for learning, forgetting, setting in zip((0.4, 0.8), pair, ("low", "<high>"), strict=True)
    ]
    provenance = {"commit": "c0ffee", "checkpoints": {"a": {"world_seed": 3}}}
    return build_frontier("laptop", trials, samples=200, provenance=provenance)


def color_share(picture: np.ndarray[Any, Any], red: int, green: int, blue: int) -> float:
    distance = np.abs(picture[..., :3] * 255 - np.array([red, green, blue])).max(axis=-1)
    return float((distance < 12).mean())


def test_picture_shows_every_method_in_its_color(frontier: dict[str, Any], tmp_path: Path) -> None:
    draw_frontier(frontier, tmp_path / "frontier.png")
    picture = matplotlib.image.imread(tmp_path / "frontier.png")
    assert picture.shape[1] == 1440
    for color in ((0x1F, 0x5F, 0xD0), (0xE0, 0x8A, 0x00), (0xC2, 0x27, 0x4B), (0x5F, 0x7A, 0x8A)):
        assert color_share(picture, *color) > 0.001
    without_control = {
        **frontier,
        "points": frontier["points"][:-2],
        "start": dict(list(frontier["start"].items())[:-1]),
    }
    draw_frontier(without_control, tmp_path / "three.png")
    assert color_share(matplotlib.image.imread(tmp_path / "three.png"), 0x5F, 0x7A, 0x8A) < 0.0002


def test_picture_survives_a_sweep_of_one_point_far_outside(tmp_path: Path) -> None:
    """A loss that triples is forgetting 200 %: said in words, not drawn to scale."""
    start, end = (SetScore(task="text@1", measure="nats_per_token", chance=0, items=(value,)) for value in (1.0, 3.0))
    one = TrialResult(
        key="full",
        method="full",
        hyperparameters={},
        seed=0,
        start={"new_facts": accuracy(0), "text": start},
        end={"new_facts": accuracy(0.5), "text": end},
        extra={},
    )
    draw_frontier(build_frontier("smoke", [one], samples=10), tmp_path / "frontier.svg")
    svg = (tmp_path / "frontier.svg").read_text()
    assert "1 point above the picture" in svg
    assert "recipe smoke, mean over 1 seed," in svg


def test_picture_has_a_panel_per_counted_set_known_facts_first_and_largest() -> None:
    figure = figure_of(build_frontier("laptop", random_trials(), samples=20))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "What a method loses of known facts for what it learns",
        "Known facts, nats",
        "Arithmetic",
        "Arithmetic, nats",
        "Text",
    ]
    figure.draw_without_rendering()
    widths = [axes.get_position().width for axes in figure.axes]
    assert widths[0] > 2 * max(widths[1:])


def test_a_line_begins_at_the_untrained_model() -> None:
    trials = random_trials()
    frontier = build_frontier("laptop", trials, samples=20)
    for axes in figure_of(frontier).axes:
        lines = [line for line in axes.lines if line.get_label() == "LoRA"]
        assert len(lines) == 1
        learning, drop = (values[0] for values in lines[0].get_data())
        assert (learning, drop) == (pytest.approx(frontier["start"]["lora"]["learning"]), 0.0)


def test_table_for_the_terminal(frontier: dict[str, Any]) -> None:
    text = format_table(frontier)
    lines = text.splitlines()
    (point,) = [line for line in lines if "LoRA" in line and "setting=low" in line]
    assert point.startswith("*")
    assert re.search(
        r"setting=low +40\.0% \[[\d., ]+\] +20\.0% \[[\d., ]+\] +- \(not counted\) +20\.0% +0\.01 +12$", point
    )
    assert "arithmetic does not count: sparse_memory starts at 0.25 right, and chance is 0.25" in text
    matched = [line for line in lines if line.startswith("60%")]
    assert [re.findall(r"(\d+\.\d)% \[", line) for line in matched] == 2 * [["10.0", "40.0", "30.0", "15.0"]]


def test_the_average_comes_last_and_is_called_an_average(frontier: dict[str, Any]) -> None:
    headers = [header[0] for header, _ in matched_tables(frontier, PAPER_FORGETTING)]
    assert headers == ["known facts: lost at learning", "average of known facts: lost at learning"]


def test_the_papers_figures_stand_under_known_facts_alone() -> None:
    """They are of NaturalQuestions, whose counterpart known facts are."""
    trials = random_trials()
    tables = matched_tables(build_frontier("laptop", trials, samples=20), PAPER_FORGETTING)
    with_paper = [header[0] for header, rows in tables if any(row[0].startswith("paper") for row in rows)]
    assert len(tables) == 6 and with_paper == ["known facts: lost at learning"]
    assert tables[0][1][-1] == ["paper, NQ", "11%", "-", "71%", "89%"]


def test_losses_have_a_decimal_more() -> None:
    frontier = build_frontier("laptop", random_trials(), samples=20)
    tables = {header[0].split(":")[0]: rows for header, rows in matched_tables(frontier, {})}
    value = frontier["matched"][4]["methods"]["sparse_memory"]["sets"]["known_facts_nats"]
    assert tables["known facts, nats"][4][1].startswith(f"{100 * value['forgetting']:.2f}% [")
    assert re.match(r"-?\d+\.\d%", tables["known facts"][4][1])


def test_no_change_is_not_written_as_a_negative_zero(frontier: dict[str, Any]) -> None:
    point = frontier["points"][0]
    text = format_table({**frontier, "points": [{**point, "forgetting": -0.0001}]})
    assert " 0.0% " in text
    assert "-0.0%" not in text


def test_table_says_when_nothing_can_be_matched(frontier: dict[str, Any]) -> None:
    text = format_table({**frontier, "matched": []})
    assert (
        "no level of learning that all compared methods reach "
        "(at most: Sparse memory 80%, LoRA 80%, Full finetuning 80%, Tf ranking 80%); widen the search space"
    ) in text


def test_table_says_where_resamples_fall_short_of_a_level_and_which_methods_never_reach_it(
    frontier: dict[str, Any],
) -> None:
    at = {"forgetting": 0.3, "ci": [0.2, 0.5]}
    row = {"learning": 0.6, "methods": {"full": {**at, "reached": 0.9996, "sets": {"known_facts": at}}}}
    text = format_table({**frontier, "matched": [], "partly_matched": [row]})
    assert "30.0% [20.0, 50.0] (reached in 99% of resamples)" in text
    assert re.search(r"60% +not reached +not reached +30\.0%", text)
    row["methods"]["full"]["reached"] = 1.0
    assert "of resamples" not in format_table({**frontier, "matched": [row], "partly_matched": [], "paired": []})


def test_paired_differences_are_shown_for_sparse_methods_against_dense_ones_and_ours_against_the_papers() -> None:
    frontier = build_frontier("laptop", random_trials(), samples=50)
    assert shown_pairs(frontier) == [
        ("sparse_memory_ours", "sparse_memory"),
        ("sparse_memory", "lora"),
        ("sparse_memory", "full"),
        ("sparse_memory_ours", "lora"),
        ("sparse_memory_ours", "full"),
    ]
    (header, rows), (nats_header, _) = paired_tables(frontier, ["known_facts", "known_facts_nats"])
    assert header[0] == "known facts: ratio and difference (points) at learning"
    assert nats_header[0] == "known facts, nats: ratio and difference (nats per token) at learning"
    (row,) = [
        row
        for row in frontier["paired"]
        if (row["set"], row["learning"], row["method"], row["against"]) == ("known_facts", 0.7, "sparse_memory", "full")
    ]
    cell = rows[2][header.index("70%")]
    (low, high), (ratio_low, ratio_high) = row["ci"], row["ratio_ci"]
    shown = f"{row['ratio']:.2f} [{ratio_low:.2f}, {ratio_high:.2f}]; {100 * row['difference']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert cell.startswith(shown) and ("reached in" in cell) == (row["reached"] < 1)


def test_the_table_says_on_what_settings_were_chosen() -> None:
    trials = random_trials()
    chosen = format_table(build_frontier("laptop", trials, samples=20, tuning_seeds=(2,)))
    assert "settings (*) were chosen by known facts, nats on seeds 2 and a third of the questions" in chosen
    assert "on the very results that are reported" in format_table(build_frontier("laptop", trials, samples=20))


class Page(HTMLParser):
    """Text of each table row, and everything a browser would fetch."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.classes: list[str | None] = []
        self.cell = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.cell = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
            self.classes.append(dict(attrs).get("class"))

    def handle_endtag(self, tag: str) -> None:
        self.cell = False

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[-1].append(data)


def test_report_is_one_file_with_all_tables(frontier: dict[str, Any], tmp_path: Path) -> None:
    write_report(frontier, tmp_path / "report.html", stages=STAGES, paper=PAPER_FORGETTING)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    (picture,) = page.links
    assert base64.b64decode(picture.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert "<script" not in source
    rows = {row[0]: row for row in page.rows}
    assert [cell.split("%")[0] for cell in rows["60%"][1:]] == ["10.0", "40.0", "30.0", "15.0"]
    assert rows["paper, NQ"] == ["paper, NQ", "11%", "71%", "89%", "-"]
    assert rows["prepare_corpus"] == ["prepare_corpus", "8.3 s", "-"]
    assert rows["pretrain"] == ["pretrain", "7 min 11 s", "3.25"]
    bold = [row[:2] for row, name in zip(page.rows, page.classes, strict=True) if name == "bold"]
    assert len(bold) == 8
    assert ["LoRA", "setting=<high>"] in bold  # what users type is escaped, and read back as typed
    assert "--name &#39;a&lt;b&#39;" in source
    assert "arithmetic does not count: sparse_memory starts at 0.25 right, and chance is 0.25" in source
    assert "Of known facts, at 60% learned:" in source
    assert "commit c0ffee" in source and "checkpoints a world_seed 3" in source


def test_report_without_a_matched_level_says_what_to_do(frontier: dict[str, Any], tmp_path: Path) -> None:
    write_report({**frontier, "matched": []}, tmp_path / "report.html", stages={}, paper={})
    assert "widen the search space" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_several_sweeps_are_drawn_side_by_side(frontier: dict[str, Any], tmp_path: Path) -> None:
    draw_frontiers([frontier], tmp_path / "one.png")
    draw_frontiers([frontier, frontier], tmp_path / "two.png")
    one, two = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert two.shape[:2] == (one.shape[0], 2 * one.shape[1])
    half = two.shape[1] // 2
    for panel in (two[:, :half], two[:, half:]):
        assert color_share(panel, 0x1F, 0x5F, 0xD0) > 0.0005


def test_every_method_has_its_own_look(tmp_path: Path) -> None:
    names = [f"control_{number}" for number in range(14)]
    trials = [trial(name, 0.4, 0.1, "low") for name in [*CURVES, *names]]
    drawn = build_frontier("laptop", trials, samples=20)
    looks = {look_of(drawn, name)[1:] for name in drawn["start"]}
    assert len(looks) == len(drawn["start"])
    draw_frontier(drawn, tmp_path / "many.png")


def test_a_diverged_setting_is_in_the_table_and_in_the_report(tmp_path: Path) -> None:
    trials = [trial("full", learning, 0.1, "low") for learning in (0.4,)]
    diverged = FailedSetting(
        method="lora", hyperparameters={"lr": 3.0}, seeds=(0, 2), reason="the loss is <nan> at step 7"
    )
    drawn = build_frontier("laptop", trials, failed=[diverged], samples=20)
    assert drawn["failed"] == [
        {"method": "lora", "hyperparameters": {"lr": 3.0}, "seeds": (0, 2), "reason": "the loss is <nan> at step 7"}
    ]
    assert re.search(r"left out.*\n.*\n.*\nlora +lr=3 +0 2 +the loss is <nan> at step 7", format_table(drawn))
    write_report(drawn, tmp_path / "report.html", stages={}, paper={})
    assert "the loss is &lt;nan&gt; at step 7" in (tmp_path / "report.html").read_text()


def test_the_levels_shown_are_the_highest_that_two_methods_reach() -> None:
    """Two methods learn a third; a third method learns everything."""
    trials = [
        *(lost(method, 0.35, 0.1, seed=seed) for method in ("sparse_memory", "full") for seed in (0, 1)),
        *(lost("lora", 1.0, 0.1, seed=seed) for seed in (0, 1)),
    ]
    frontier = frontier_of_trials(*trials)
    assert shown_levels(frontier) == [0.1, 0.2, 0.3]
    (table,) = paired_tables(frontier, ["known_facts"])
    assert table[0][1:] == ["10%", "20%", "30%"]
    few = matched_tables(frontier, {}, shown_levels(frontier))
    assert [row[0] for row in few[-1][1]] == ["10%", "20%", "30%"]


def test_one_method_is_not_said_to_fall_short() -> None:
    text = format_table(frontier_of_trials(lost("full", 0.5, 0.1), lost("full", 0.5, 0.2, seed=1)))
    assert "there is one method (Full finetuning), so nothing to compare it with" in text


def test_settings_of_one_method_may_name_different_fields() -> None:
    trials = [lost("full", 0.4, 0.1, rate=1.0), lost("full", 0.5, 0.1, rate=1.0, strength=3.0)]
    frontier = frontier_of_trials(*trials)
    cells = [" ".join(point_cells(frontier, point)) for point in frontier["points"]]
    assert "strength" not in cells[0] and "strength=3" in cells[1]
