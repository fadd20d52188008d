"""The result of a sweep as tables of text, for a terminal and for the report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memlm.results.comparing.trials import COMPARED_METHODS, SPARSE
from memlm.results.looks import look_of, title_of
from memlm.results.scores import SEEN_WORDINGS
from memlm.results.sequences import sequence_table

PAPER_FORGETTING = {"sparse_memory": 0.11, "lora": 0.71, "full": 0.89}
"""NaturalQuestions F1 lost at the same learning (Lin et al. 2025, arXiv 2510.15103, abstract)."""
PAPERS_SETS = ("known_facts", "nq_open")
"""NaturalQuestions, and its counterpart for models that know none of it: what a model knew."""
SHOWN_LEVELS = 5
"""Number of levels whose paired differences are shown; frontier.json has all."""

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def format_table(frontier: Mapping[str, Any]) -> str:
    """The result for a terminal: every point (`*`: chosen), then what each method loses of each set
    at matched learning, the average last, and paired differences of the sets that decide. The
    report has all levels and sets."""
    lines = [f"recipe {frontier['recipe']}: learning against forgetting, with 95% intervals", *notes(frontier), ""]
    lines += [*_columns(points_header(frontier), [point_cells(frontier, point) for point in frontier["points"]]), ""]
    if one_by_one := sequence_table(frontier):
        lines += [*_columns(*one_by_one), ""]
    if not frontier["matched"]:
        lines += [unmatched(frontier), ""]
    shown = shown_levels(frontier)
    whole, few = matched_tables(frontier, PAPER_FORGETTING), matched_tables(frontier, PAPER_FORGETTING, shown)
    for header, rows in (*whole[:1], *few[1:]):
        lines += [*_columns(header, rows), ""] if rows else []
    deciding = dict.fromkeys((frontier["headline_set"], frontier["chosen_by"]))
    for table in paired_tables(frontier, [*deciding]):
        lines += [*_columns(*table), ""]
    if frontier["failed"]:
        lines += ["left out, because learning diverged", *_columns(*failed_cells(frontier)), ""]
    title = title_of(frontier["headline_set"])
    lines += [f"start, and hypervolume on {title} (from learning 0, all lost; more is better)"]
    return "\n".join([*lines, *_columns(*start_cells(frontier))]) + "\n"


def _columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    table.insert(1, ["-" * width for width in widths])
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def notes(frontier: Mapping[str, Any]) -> list[str]:
    """What a reader must know before the numbers, a sentence each."""
    lines = [_choice(frontier)]
    lines += [f"{name} does not count: {reason}" for name, reason in frontier["left_out"].items()]
    seeds = {seed for point in frontier["points"] for seed in point["seeds"]}
    checkpoints = {name for point in frontier["points"] for name in point["checkpoints"]}
    if len(seeds) == 1:
        lines.append(
            f"there is one seed ({min(seeds)}), so intervals are over items alone; give sweep.seeds more of them"
        )
    if len(checkpoints) > 1:
        lines.append(
            f"intervals are over {len(checkpoints)} checkpoints ({', '.join(sorted(checkpoints))}), seeds and items"
        )
    return lines + [f"these trials are older and lack {each}" for each in frontier["lacks"]]


def _choice(frontier: Mapping[str, Any]) -> str:
    by = title_of(frontier["chosen_by"])
    if frontier["chosen_on"] == "tuning":
        seeds = " ".join(map(str, frontier["tuning_seeds"]))
        return f"settings (*) were chosen by {by} on seeds {seeds} and a third of the questions, and are reported on the others"
    return f"settings (*) were chosen by {by} on the very results that are reported, which flatters a method with many; sweep.tuning_seeds parts the two"


def shown_levels(frontier: Mapping[str, Any]) -> list[float]:
    """The highest levels that two methods or more reach."""
    rows = frontier["matched"] + frontier["partly_matched"]
    return sorted(float(row["learning"]) for row in rows if len(row["methods"]) > 1)[-SHOWN_LEVELS:]


def points_header(frontier: Mapping[str, Any]) -> list[str]:
    drops = [f"{name} drop" for name in frontier["sets"]]
    seen = ["seen wordings"] if _has_seen(frontier) else []
    return ["", "method", "hyperparameters", "learning", *seen, *drops, "average drop", "s/step", "seconds"]


def _has_seen(frontier: Mapping[str, Any]) -> bool:
    """Whether facts were also asked in the wordings that they were learned in."""
    return any(SEEN_WORDINGS in point["scores"] for point in frontier["points"])


def point_cells(frontier: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    settings = " ".join(
        f"{name.rsplit('.', 1)[-1]}={number_cell(point['hyperparameters'][name])}"
        for name in _varying(frontier, point["method"])
        if name in point["hyperparameters"]
    )
    drops = [_drop_cell(point["sets"][name], whole=name == frontier["headline_set"]) for name in frontier["sets"]]
    seen = [percent(point["scores"].get(SEEN_WORDINGS))] if _has_seen(frontier) else []
    learned = [_with_interval(point["learning"], point["learning_ci"]), *seen]
    axes = [*learned, *drops, percent(point["forgetting"])]
    step, whole = point["seconds_per_step"], point["seconds"]
    seconds = ["-" if step is None else f"{step:.2g}", "-" if whole is None else f"{whole:.0f}"]
    return ["*" if point["on_frontier"] else "", look_of(frontier, point["method"]).name, settings, *axes, *seconds]


def _drop_cell(held_out: Mapping[str, Any], *, whole: bool) -> str:
    """A point's drop on one set; `whole` is with its interval."""
    decimals = decimals_of(held_out)
    if whole:
        return _with_interval(held_out["drop"], held_out["drop_ci"], decimals)
    return percent(held_out["drop"], decimals=decimals) + ("" if held_out["counted"] else " (not counted)")


def decimals_of(held_out: Mapping[str, Any]) -> int:
    """A trial loses little of the distance between its loss and a unigram model's."""
    return 2 if held_out["measure"] == "nats_per_token" else 1


def failed_cells(frontier: Mapping[str, Any]) -> Table:
    rows = [
        [
            setting["method"],
            " ".join(
                f"{name.rsplit('.', 1)[-1]}={number_cell(value)}" for name, value in setting["hyperparameters"].items()
            ),
            " ".join(map(str, setting["seeds"])),
            setting["reason"],
        ]
        for setting in frontier["failed"]
    ]
    return ["method", "hyperparameters", "seeds", "what happened"], rows


def _varying(frontier: Mapping[str, Any], method: str) -> list[str]:
    """The hyperparameters in which a method's points differ; all of them for a method of one
    point."""
    settings = [point["hyperparameters"] for point in frontier["points"] if point["method"] == method]
    names = dict.fromkeys(name for setting in settings for name in setting)
    varying = [name for name in names if len({setting.get(name) for setting in settings}) > 1]
    return varying or list(names)


def unmatched(frontier: Mapping[str, Any]) -> str:
    """Why there is no level at which the compared methods can be compared."""
    most = {
        look_of(frontier, method).name: max(
            point["learning"] for point in frontier["points"] if point["method"] == method
        )
        for method in frontier["start"]
    }
    if len(most) == 1:
        return f"there is one method ({next(iter(most))}), so nothing to compare it with; sweep another with --sweep.methods"
    learned = ", ".join(f"{name} {percent(learning, decimals=0)}" for name, learning in most.items())
    return f"no level of learning that all compared methods reach (at most: {learned}); widen the search space of those that learn least"


def matched_tables(
    frontier: Mapping[str, Any], paper: Mapping[str, float], levels: Sequence[float] | None = None
) -> list[Table]:
    """What methods lose at matched learning: a table per counted set, and one of the average. The
    paper's figures stand under the set that is their counterpart. `levels` are those shown; None
    for all."""
    rows = sorted(frontier["matched"] + frontier["partly_matched"], key=lambda row: float(row["learning"]))
    rows = [row for row in rows if levels is None or row["learning"] in levels]
    if not rows:
        return []
    methods = list(frontier["start"])
    tables = []
    for name in (*frontier["counted_sets"], None):
        title = title_of(name) if name else "average of " + ", ".join(map(title_of, frontier["forgetting_sets"]))
        decimals = decimals_of(frontier["points"][0]["sets"][name]) if name else 1
        cells = [
            [
                percent(row["learning"], decimals=0),
                *(matched_cell(row["methods"].get(each), name, decimals) for each in methods),
            ]
            for row in rows
        ]
        if name in PAPERS_SETS and paper:
            cells.append(["paper, NQ", *(percent(paper.get(method), decimals=0) for method in methods)])
        tables.append(([f"{title}: lost at learning", *(look_of(frontier, each).name for each in methods)], cells))
    return tables


def matched_cell(value: Mapping[str, Any] | None, name: str | None, decimals: int) -> str:
    """What a method of a row of `matched` lost of a set, or on average for None."""
    if value is None:
        return "not reached"
    lost = value["sets"][name] if name else value
    return _with_interval(lost["forgetting"], lost["ci"], decimals) + reached_note(value["reached"])


def reached_note(share: float) -> str:
    """A note if part of an interval rests on resamples that did not learn this much."""
    return "" if share >= 1 else f" (reached in {min(round(100 * share), 99)}% of resamples)"


def paired_tables(frontier: Mapping[str, Any], names: Sequence[str]) -> list[Table]:
    """Paired differences, a table per set: sparse methods against the dense ones, and our rules
    against the paper's."""
    tables = []
    for name in names:
        rows = {
            (row["method"], row["against"], row["learning"]): row for row in frontier["paired"] if row["set"] == name
        }
        levels = [level for level in shown_levels(frontier) if any(key[2] == level for key in rows)]
        cells = [
            [
                f"{look_of(frontier, method).name} - {look_of(frontier, against).name}",
                *(paired_cell(rows.get((method, against, level))) for level in levels),
            ]
            for method, against in shown_pairs(frontier)
        ]
        if levels and cells:
            unit = "nats per token" if next(iter(rows.values()))["unit"] == "nats per token" else "points"
            header = f"{title_of(name)}: ratio and difference ({unit}) at learning"
            tables.append(([header, *(percent(level, decimals=0) for level in levels)], cells))
    return tables


def shown_pairs(frontier: Mapping[str, Any]) -> list[tuple[str, str]]:
    methods = list(frontier["start"])
    sparse = [method for method in methods if method.startswith(SPARSE)]
    dense = [method for method in COMPARED_METHODS if method != SPARSE and method in methods]
    ours = [method for method in sparse if method != SPARSE and SPARSE in methods]
    return [(method, SPARSE) for method in ours] + [(method, against) for method in sparse for against in dense]


def paired_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not reached"
    scale, decimals = (1, 3) if row["unit"] == "nats per token" else (100, 1)
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
    if row.get("ratio_ci"):  # not in frontiers from before it was computed
        ratio += " [{}, {}]".format(*(_rounded(bound, 2) for bound in row["ratio_ci"]))
    difference, low, high = (_rounded(scale * each, decimals) for each in (row["difference"], *row["ci"]))
    return f"{ratio}; {difference} [{low}, {high}]{reached_note(row['reached'])}"


def start_cells(frontier: Mapping[str, Any]) -> Table:
    names = ["learning", *frontier["sets"]]
    rows = []
    for method, start in frontier["start"].items():
        volume, (low, high) = frontier["hypervolume"][method], frontier["hypervolume_ci"][method]
        cells = [f"{start[name]:.3f}" for name in names]
        rows.append([look_of(frontier, method).name, *cells, f"{volume:.3f} [{low:.3f}, {high:.3f}]"])
    return ["method", *(f"{name} at start" for name in names), "hypervolume"], rows


def percent(share: float | None, *, decimals: int = 1) -> str:
    return "-" if share is None else f"{_rounded(100 * share, decimals)}%"


def _with_interval(value: float | None, interval: Sequence[float] | None, decimals: int = 1) -> str:
    if not interval:
        return percent(value, decimals=decimals)
    low, high = (_rounded(100 * bound, decimals) for bound in interval)
    return f"{percent(value, decimals=decimals)} [{low}, {high}]"


def _rounded(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # never -0.0


def number_cell(value: float | int | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
