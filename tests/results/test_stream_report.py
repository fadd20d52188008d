import re

import matplotlib.image
import numpy as np
import pytest

from memlm.evaluation.fact_scores import FactScore
from memlm.evaluation.stream_metrics import CurvePoint, FactTrace, stream_metrics
from memlm.results.stream_report import draw_stream, format_stream

ABOUT = {"method": "sparse_memory", "seed": 0, "num_steps": 20, "hyperparameters": {}}


def score(right: float) -> FactScore:
    return FactScore(exact_match=right, nats_per_token=2 - right, seen_exact_match=1.0, seen_nats_per_token=0.5)


def document(num_facts: int = 20, *, slots: tuple[int, ...] | None = (1, 2), held_out: dict[str, float] | None = None):
    """All are learned; the older half is forgotten."""
    traces = [
        FactTrace(
            fact_id=f"fact {step}",
            step=step,
            start=score(0.0),
            after=score(1.0),
            end=score(float(step > num_facts / 2)),
            slots=slots,
        )
        for step in range(1, num_facts + 1)
    ]
    curve = [
        CurvePoint(step=step, exact_match=step / 20, nats_per_token=2 - step / 20, held_out=held_out or {})
        for step in range(0, 21, 5)
    ]
    return {**ABOUT, **stream_metrics(traces, curve, samples=200)}


def line(text: str, start: str) -> list[str]:
    """The first numbers of the cells of the line that starts so."""
    (found,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return re.findall(r"(-?\d\.\d{3}) \[", found)


def test_the_table_agrees_with_the_document():
    text = format_stream(document())
    assert line(text, "right after") == ["1.000", "1.000"]
    assert line(text, "backward transfer") == ["-0.526", "-0.526"]  # 10 of the 19 that have later facts
    assert line(text, "forgetting  ") == ["0.526", "0.526"]
    assert line(text, "paraphrase gap  ") == ["0.000", "0.500"]
    assert line(text, "paraphrase gap, at the end") == ["0.500", "1.000"]
    assert line(text, "1 to 4") == ["0.000", "0.000"] and line(text, "17 to 19") == ["1.000", "1.000"]
    assert line(text, "slots that two facts share") == ["1.000"]
    assert "stream of 20 facts in 20 steps of sparse_memory" in text


def test_absent_metrics_are_not_in_the_table():
    text = format_stream(document(1, slots=None))
    assert "share" not in text and "nan" not in text
    (transfer,) = [line for line in text.splitlines() if "backward transfer" in line]
    assert transfer.split() == ["backward", "transfer", "-", "-"]


def color_share(path, *color: int) -> float:
    picture = matplotlib.image.imread(path)
    distance = np.abs(picture[..., :3] * 255 - np.array(color)).max(axis=-1)
    return float((distance < 12).mean())


def test_the_picture_has_the_curves_and_the_bars(tmp_path):
    draw_stream(document(held_out={"known_facts": 0.5}), tmp_path / "all.png")
    draw_stream(document(), tmp_path / "none.png")
    held_out = (0xC2, 0x27, 0x4B)
    assert color_share(tmp_path / "all.png", *held_out) > 0.0005 > color_share(tmp_path / "none.png", *held_out)
    assert color_share(tmp_path / "all.png", 0x1F, 0x5F, 0xD0) > 0.02  # the bars of what was forgotten
    assert color_share(tmp_path / "all.png", 0xE0, 0x8A, 0x00) > 0.0005


@pytest.mark.parametrize("num_facts", [1, 2])
def test_a_short_stream_is_drawn_too(tmp_path, num_facts):
    draw_stream(document(num_facts), tmp_path / "short.svg")
    assert ("nothing after it" in (tmp_path / "short.svg").read_text()) == (num_facts == 1)
