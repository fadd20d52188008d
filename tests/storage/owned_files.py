"""Artifacts of memlm and files that belong to the user."""

from pathlib import Path

from memlm import storage

SENTINEL = b"three years of work"


def write(uri: str, text: str = "weights", *, seed: int = 1) -> None:
    with storage.write_artifact(uri, kind="model", config={"seed": seed}) as draft:
        (draft.path / "part").mkdir()
        (draft.path / "part" / "0.bin").write_text(text)
        (draft.path / "config.json").write_text("{}")


def sentinels_in(home: Path) -> dict[str, bytes]:
    """Content of everything that the user owns, by path, without following links."""
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file() and not path.is_symlink()}
