"""Questions that come with memlm. In a recipe, {shipped} stands for their folder."""

from pathlib import Path

FOLDER = Path(__file__).parent
