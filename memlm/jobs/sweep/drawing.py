"""The files of a frontier: its numbers, tables, picture and report. They are drawn at the end of a
sweep, and again by `memlm frontier` from the items that the sweep kept."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from memlm import storage
from memlm.kinds import REPORT_FILE
from memlm.outside import reading
from memlm.results.comparing.items import SweepItems
from memlm.results.frontier import frontier_of
from memlm.results.frontier_csv import write_csv
from memlm.results.frontier_picture import draw_frontier
from memlm.results.frontier_tables import PAPER_FORGETTING, format_table
from memlm.results.report import write_report
from memlm.results.scores import ScoreError
from memlm.stages import RunError

FRONTIER_FILE, PICTURE_FILE, ITEMS_FILE = "frontier.json", "frontier.png", "items.json"
FRONTIER_FILES = (FRONTIER_FILE, "frontier.csv", PICTURE_FILE, REPORT_FILE)


def draw_files(frontier: Mapping[str, Any], folder: Path, stages: Mapping[str, Mapping[str, Any]]) -> list[Path]:
    """Write FRONTIER_FILES into a folder on this machine."""
    files = [folder / name for name in FRONTIER_FILES]
    storage.write_record(str(files[0]), frontier)
    write_csv(frontier, files[1])
    draw_frontier(frontier, files[2])
    write_report(frontier, files[3], stages=stages, paper=PAPER_FORGETTING)
    return files


def read_items(uri: str) -> SweepItems:
    """Items that a sweep kept. Raises StorageError."""
    record = storage.read_record(uri)

    def refuse(reason: str) -> storage.DamagedArtifact:
        return storage.DamagedArtifact("items", uri, f"is not the items of a sweep ({reason})", storage.REMAKE)

    try:
        with reading(refuse):
            return SweepItems.from_json(record)
    except ScoreError as error:
        raise refuse(str(error)) from error


def redraw(items: str, out: str) -> str:
    """Compute a frontier again from its items, draw its files into `out`, and return its table.
    Raises RunError if `out` already has one of the files."""
    if there := sorted({*FRONTIER_FILES} & {*storage.list_names(out)}):
        raise RunError(f"{storage.join(out, there[0])} exists already; name another folder with --out, or move it away")
    frontier = frontier_of(read_items(items))
    with TemporaryDirectory() as scratch:
        for file in draw_files(frontier, Path(scratch), stages={}):
            storage.write_bytes(storage.join(out, file.name), file.read_bytes())
    return format_table(frontier)
