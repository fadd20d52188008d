"""The name, colour and marker of each method and the title of each set, the same in tables and
pictures."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from memlm.results.scores import kept_set, nats_set

HEADLINE_LEARNING = 0.6
"""The level of learning at which forgetting is compared in one sentence."""
TITLES = {
    "new_facts": "new facts",
    "text": "text",
    "text_ends": "ends of text",
    "background_text": "text with its ends",
}


class Look(NamedTuple):
    name: str
    color: str
    marker: str


LOOKS = {
    "sparse_memory": Look("Sparse memory", "#1f5fd0", "o"),
    "lora": Look("LoRA", "#e08a00", "s"),
    "full": Look("Full finetuning", "#c2274b", "^"),
}
_CONTROL_COLORS = (
    "#5f7a8a",
    "#7b52ab",
    "#2e8b6f",
    "#8a6d3b",
    "#d65f9e",
    "#4aa3c7",
    "#9aa11b",
    "#3b3b3b",
    "#b58bd6",
    "#59b36a",
)
_CONTROL_MARKERS = "DvPX<>hp"
INK, FAINT = "#1d2733", "#8793a1"


def look_of(frontier: Mapping[str, Any], method: str) -> Look:
    controls = sorted(name for name in frontier["start"] if name not in LOOKS)
    if method not in controls:
        return LOOKS[method]
    number = controls.index(method)
    color, marker = _CONTROL_COLORS[number % len(_CONTROL_COLORS)], _CONTROL_MARKERS[number % len(_CONTROL_MARKERS)]
    return Look(method.replace("_", " ").capitalize(), color, marker)


def title_of(name: str) -> str:
    """A set, for people."""
    asked = name.removesuffix("_nats").removesuffix("_kept")
    title = TITLES.get(asked, asked.replace("_", " "))
    if name == nats_set(asked):
        return f"{title}, nats"
    return f"{title} answered before" if name == kept_set(asked) else title


def headline(frontier: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return min(frontier["matched"], key=lambda row: abs(row["learning"] - HEADLINE_LEARNING), default=None)


def counted_of(frontier: Mapping[str, Any]) -> list[str]:
    """The counted sets, the headline set first. A frontier from before sets were counted one by one
    names those of its mean, among which known facts come first."""
    if "counted_sets" in frontier:
        return list(frontier["counted_sets"])
    return sorted(frontier["forgetting_sets"], key=lambda name: name != "known_facts")
