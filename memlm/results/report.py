"""The result of a sweep as one HTML page.

Reads the document that `frontier.build_frontier` makes and computes nothing new: every number
here is in frontier.json. The page is one file without scripts or anything to fetch, so that it
can be mailed or kept as an artifact.
"""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from memlm.results.frontier_picture import figure_of
from memlm.results.frontier_tables import failed_cells, matched_cells, number_cell, percent, point_cells, start_cells
from memlm.results.looks import headline, look_of


def write_report(
    frontier: Mapping[str, Any],
    path: str | Path,
    *,
    stages: Mapping[str, Mapping[str, Any]],
    paper: Mapping[str, float],
) -> None:
    """One HTML page.

    `stages`: what to show of each; `seconds` is written as a time, `command` under how to repeat
    it. `paper`: the forgetting that the paper reports, by method.
    """
    picture = io.BytesIO()
    figure_of(frontier).savefig(picture, format="png", dpi=160)
    encoded = base64.b64encode(picture.getvalue()).decode()
    counted, sets = frontier["forgetting_sets"], list(frontier["points"][0]["sets"])
    left_out = [name for name in sets if name not in counted]
    note = f" Left out, since a model starts near chance there: {html.escape(', '.join(left_out))}." if left_out else ""
    points = [point_cells(frontier, point) for point in frontier["points"]]
    header = ["method", "hyperparameters", "learning", "forgetting", *(f"{name} drop" for name in sets)]
    frontier_rows = [index for index, cells in enumerate(points) if cells[0]]
    commands = [str(stage["command"]) for stage in stages.values() if "command" in stage]
    body = [
        f"<h1>Learning against forgetting</h1><p class=lead>Recipe {html.escape(frontier['recipe'])}. "
        "Learning is accuracy on new facts in wordings never trained on; forgetting is the drop on held-out sets "
        f"relative to the model's own start, the mean over {html.escape(', '.join(counted))}.{note} Intervals are 95% "
        f"percentiles of {frontier['bootstrap']['samples']} bootstrap resamples over seeds and items.</p>",
        _cards(frontier),
        f'<img alt="Forgetting against learning, one line per method" src="data:image/png;base64,{encoded}">',
        "<h2>Forgetting at matched learning</h2>",
        _table(*matched_cells(frontier, paper)),
        "<p>Linear between two settings of a method's frontier. Paper: loss of NaturalQuestions F1 at the same "
        "learning, another model and scale (Lin et al. 2025, arXiv 2510.15103).</p><h2>Start and hypervolume</h2>",
        _table(*start_cells(frontier)),
        "<p>Hypervolume: the area that the settings dominate, from learning 0 and forgetting 100%; more is better.</p>",
        "<h2>All settings</h2><p>By method, then learning. In bold: on the method's own frontier.</p>",
        _table(header, [cells[1:] for cells in points], bold=frontier_rows),
        *(
            ["<h2>Left out, because learning diverged</h2>", _table(*failed_cells(frontier))]
            if frontier["failed"]
            else []
        ),
        "<h2>Stages</h2>",
        _table(*_stage_cells(stages)),
        "<h2>How to repeat this</h2>",
        f"<pre>{html.escape(chr(10).join(commands))}</pre>",
    ]
    head = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    title = f"<title>memlm: {html.escape(frontier['recipe'])}</title>"
    page = f"{head}{title}<style>{_STYLE}</style><main>{''.join(body)}</main></html>\n"
    Path(path).write_text(page, encoding="utf-8")


def _cards(frontier: Mapping[str, Any]) -> str:
    """The one sentence a visitor takes away, a box per method."""
    if (row := headline(frontier)) is None:
        return "<p><b>No level of learning is reached by all compared methods;</b> widen the sweep.</p>"
    boxes = ""
    for method, value in row["methods"].items():
        look = look_of(frontier, method)
        low, high = (f"{100 * bound:.1f}" for bound in value["ci"])
        boxes += (
            f"<div style='border-color:{look.color}'>{html.escape(look.name)} forgets<b style='color:{look.color}'>"
        )
        boxes += f"{percent(value['forgetting'])}</b><small>95% interval {low} to {high}</small></div>"
    return f"<p>At {percent(row['learning'], decimals=0)} learned:</p><section>{boxes}</section>"


def _stage_cells(stages: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for stage in stages.values() for name in stage if name != "command"))
    rows = []
    for stage, values in stages.items():
        shown = {name: _duration(value) if name == "seconds" else number_cell(value) for name, value in values.items()}
        rows.append([stage, *(shown.get(name, "-") for name in names)])
    return ["stage", *("time" if name == "seconds" else name for name in names)], rows


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, bold: Sequence[int] = ()) -> str:
    head = "".join(f"<th>{html.escape(cell)}" for cell in header)
    body = ""
    for index, row in enumerate(rows):
        body += f"<tr{' class=bold' if index in bold else ''}>" + "".join(f"<td>{html.escape(cell)}" for cell in row)
    return f"<div class=scroll><table><thead><tr>{head}<tbody>{body}</table></div>"


_STYLE = """
body{margin:0;background:#f4f6f8;color:#1d2733;font:16px/1.5 system-ui,sans-serif}
main{max-width:1240px;margin:2rem auto;padding:2rem 3rem;background:#fff;border-radius:12px;box-shadow:0 1px 6px #0002}
h1{margin:0;font-size:1.8rem}h2{margin:2.2rem 0 .6rem;font-size:1.2rem}p{color:#4a5766}.lead{margin-top:.4rem}
img{display:block;width:100%;max-width:980px;margin:1.5rem auto 0}section{display:flex;flex-wrap:wrap;gap:1rem}
section div{flex:1;min-width:9rem;padding:.7rem 1rem;background:#f8fafb;border-left:4px solid;border-radius:6px}
section b{display:block;font-size:1.9rem;line-height:1.2}small{color:#6b7885}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.82rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .5rem;border-bottom:1px solid #e6eaef;text-align:left;white-space:nowrap}th{color:#6b7885}
.bold td{font-weight:600}pre{padding:1rem;background:#f4f6f8;border-radius:6px;overflow-x:auto}
"""
