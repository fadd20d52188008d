"""One finetune as a picture, and as one HTML page with the model's answers before and after.

An answer is text from outside: it is escaped, and a character that cannot be printed is shown by
its number.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from memlm.results.pages import embedded, write_page
from memlm.results.scores import LEARNING_SET, TrialResult

SHOWN_ANSWERS = 200
"""Number of answers of each set on the page; scores.json has all."""
_INK, _FAINT, _BEFORE, _AFTER = "#1d2733", "#8793a1", "#b9c2cc", "#1f5fd0"


def draw_scores(result: TrialResult, path: str | Path) -> None:
    """Bars for every set before and after learning: accuracies on the left, losses on the right."""
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
    """Write one HTML page: the scores, the answers with changed ones first, and the settings."""
    scores = [
        (name, score.task, score.measure, f"{result.start[name].value:.3f}", f"{score.value:.3f}")
        for name, score in result.end.items()
    ]
    write_page(
        path,
        "trial_report",
        shown=_printable,
        heading=heading,
        result=result,
        learning_set=LEARNING_SET,
        picture=embedded(_figure(result), dpi=140),
        scores=_printable_cells(scores),
        answers=[_answers(name, answers) for name, answers in result.answers.items()],
        settings=_printable_cells([(name, str(value)) for name, value in result.hyperparameters.items()]),
    )


def _answers(name: str, answers: Sequence[Mapping[str, Any]]) -> tuple[str, list[list[str]], int]:
    """The name of a set, its rows of the table, and the number of answers that are not shown."""
    changed_first = sorted(answers, key=lambda each: each["before"] == each["after"])
    rows = [
        (each["question"], " | ".join(each["accepted"]), each["before"], each["after"])
        for each in changed_first[:SHOWN_ANSWERS]
    ]
    return name, _printable_cells(rows), len(answers) - len(rows)


def _printable_cells(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[_printable(cell) for cell in row] for row in rows]


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)
