"""One finetune as a picture, and as one HTML page with the model's answers before and after.

The page is one file without scripts or anything to fetch. What a model wrote is text from
outside: it is escaped, and what is no printable character is shown by its number.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from memlm.results.scores import LEARNING_SET, TrialResult

SHOWN_ANSWERS = 200
"""How many answers of each set are on the page; scores.json has all."""
_INK, _FAINT, _BEFORE, _AFTER = "#1d2733", "#8793a1", "#b9c2cc", "#1f5fd0"
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1d2733;margin:0} main{max-width:960px;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%;font-size:14px;margin:.5rem 0 2rem} img{max-width:100%}
th{text-align:left;color:#5b6673;font-weight:600} th,td{padding:.3rem .6rem .3rem 0;border-bottom:1px solid #e6eaef;vertical-align:top}
"""


def draw_scores(result: TrialResult, path: str | Path) -> None:
    """Every set before and after learning, as bars: accuracies on the left, losses on the right."""
    _figure(result).savefig(path, dpi=140)


def _figure(result: TrialResult) -> Figure:
    accuracies = [name for name, score in result.end.items() if not score.is_loss]
    losses = [name for name in result.end if name not in accuracies]
    panels = [
        (names, label)
        for names, label in ((accuracies, "share right"), (losses, "nats per token, less is better"))
        if names
    ]
    figure = Figure(figsize=(10, 1.6 + 0.7 * max(len(names) for names, _ in panels)), layout="constrained")
    for axes, (names, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for place, name in enumerate(reversed(names)):
            for offset, color, score in ((0.2, _BEFORE, result.start[name]), (-0.2, _AFTER, result.end[name])):
                axes.barh(place + offset, score.value, height=0.36, color=color)
                axes.text(score.value, place + offset, f" {score.value:.3f}", va="center", fontsize=9, color=_INK)
        axes.set_yticks(range(len(names)), list(reversed(names)))
        axes.set_xlabel(label, color=_FAINT)
        axes.tick_params(colors=_INK, length=0)
        axes.spines[:].set_visible(False)
        widest = max(result.start[name].value for name in names), max(result.end[name].value for name in names)
        axes.set_xlim(0, 1.12 * (max(widest) if names is losses else 1.0))
        axes.set_ylim(-0.7, max(len(names) - 0.3, 2.3))
    figure.suptitle(
        f"{result.method.replace('_', ' ')}, seed {result.seed}: before (grey) and after (blue)", x=0.01, ha="left"
    )
    return figure


def write_trial_report(result: TrialResult, path: str | Path, *, heading: str) -> None:
    """One HTML page: the scores, the settings, and the answers, those that changed first."""
    picture = io.BytesIO()
    _figure(result).savefig(picture, format="png", dpi=140)
    encoded = base64.b64encode(picture.getvalue()).decode()
    scores = [
        (name, score.task, score.measure, f"{result.start[name].value:.3f}", f"{score.value:.3f}")
        for name, score in result.end.items()
    ]
    settings = [(name, str(value)) for name, value in result.hyperparameters.items()]
    body = [
        f"<h1>{_text(heading)}</h1><p>{_text(result.method)}, seed {result.seed}. {LEARNING_SET} is what was to be learned, in wordings "
        "that were not trained on; the other sets are what should be kept.</p>",
        f'<img alt="Scores before and after learning" src="data:image/png;base64,{encoded}">',
        _table(("set", "task", "measure", "before", "after"), scores),
        *(part for name, answers in result.answers.items() for part in _answers(name, answers)),
        "<h2>Settings</h2>",
        _table(("setting", "value"), settings),
    ]
    head = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    page = f"{head}<title>memlm: {_text(heading)}</title><style>{_STYLE}</style><main>{''.join(body)}</main></html>\n"
    Path(path).write_text(page, encoding="utf-8")


def _answers(name: str, answers: Sequence[Mapping[str, Any]]) -> list[str]:
    changed_first = sorted(answers, key=lambda each: each["before"] == each["after"])
    rows = [
        (each["question"], " | ".join(each["accepted"]), each["before"], each["after"])
        for each in changed_first[:SHOWN_ANSWERS]
    ]
    more = f"<p>{len(answers) - len(rows)} more are in scores.json.</p>" if len(answers) > len(rows) else ""
    return [f"<h2>{_text(name)}</h2>", _table(("question", "right", "answered before", "answered after"), rows), more]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    top = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _text(text: str) -> str:
    return html.escape("".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text))
