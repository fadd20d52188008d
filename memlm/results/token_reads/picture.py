"""Texts about facts as a picture, each token on the colour of the share of its reads that are
trainable."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from memlm.results.looks import FAINT, INK
from memlm.results.token_reads.statistics import END, ReadText, ReadToken

COLORS = colormaps["YlOrRd"]
CHARACTER, LINE, FONT_SIZE = 0.092, 0.27, 11
"""Width of a character and height of a line, in inches, at this size of the font."""
END_SIGN = "<eos>"


def draw_token_reads(texts: Sequence[ReadText], slot_counts: Sequence[int], path: str | Path, *, title: str) -> None:
    """One panel for each number of trainable slots, all with the same texts and one scale."""
    width = max(len(_shown(text)) for text in texts) * CHARACTER
    panels, gap = len(slot_counts), 0.5
    height = len(texts) * LINE + gap
    figure = Figure(figsize=(width + 0.4, panels * height + 1.2))
    total_width, total_height = figure.get_size_inches()
    top = max(_share(token, index) for text in texts for token in text.tokens for index in range(panels))
    scale = Normalize(0, top)
    figure.text(0.2 / total_width, 1 - 0.3 / total_height, title, color=INK, fontsize=13, weight="bold")
    for index, count in enumerate(slot_counts):
        bottom = total_height - 0.45 - (index + 1) * height
        axes = figure.add_axes(
            (0.2 / total_width, bottom / total_height, width / total_width, (height - 0.02) / total_height)
        )
        axes.set(xlim=(0, width), ylim=(len(texts) * LINE + gap, 0))
        axes.axis("off")
        axes.text(0, 0.3, f"{count} trainable slots", color=FAINT, fontsize=11)
        for row, text in enumerate(texts):
            _draw_text(axes, text, index, gap + row * LINE, scale)
    place = (0.2 / total_width, 0.35 / total_height, 0.35 * width / total_width, 0.1 / total_height)
    bar = figure.colorbar(ScalarMappable(scale, COLORS), cax=figure.add_axes(place), orientation="horizontal")
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.ax.tick_params(labelsize=9, labelcolor=FAINT, color=FAINT)
    note = "of the slots that a token reads are trainable"
    figure.text((0.3 + 0.35 * width) / total_width, 0.36 / total_height, note, color=FAINT, fontsize=10)
    figure.savefig(Path(path), dpi=120)


def _draw_text(axes: Any, text: ReadText, index: int, top: float, scale: Normalize) -> None:
    left = 0.0
    for token in text.tokens:
        shown, share = _visible(token), _share(token, index)
        width = len(shown) * CHARACTER
        axes.add_patch(Rectangle((left, top), width, LINE * 0.9, color=COLORS(scale(share)), linewidth=0))
        ink = "white" if scale(share) > 0.65 else INK
        for number, character in enumerate(shown):
            middle = left + (number + 0.5) * CHARACTER
            axes.text(
                middle, top + LINE * 0.68, character, color=ink, fontsize=FONT_SIZE, family="monospace", ha="center"
            )
        left += width


def _shown(text: ReadText) -> str:
    return "".join(map(_visible, text.tokens))


def _visible(token: ReadToken) -> str:
    return END_SIGN if token.part == END else token.text.replace("\n", "↵")


def _share(token: ReadToken, index: int) -> float:
    return token.num_trainable[index] / token.num_read
