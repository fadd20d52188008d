"""Adopt a model that somebody else saved, for example with `save_pretrained` in a notebook: it
becomes a checkpoint in place by getting a manifest.

The manifest lists only the files from which the model is read, so a README.md, optimizer states and
hidden files may change later. Nothing in the folder is changed, and none of its code runs.
"""

import json
from pathlib import Path

from safetensors import safe_open

from memlm import storage
from memlm.kinds import CHECKPOINT_KIND
from memlm.outside import reading

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
_PATTERNS = ("*.safetensors", "*.json", "*.model", "*.tiktoken", "*.jinja", "*.py", "vocab.txt", "merges.txt")
_TEMPLATES = "additional_chat_templates"


class AdoptionError(ValueError):
    """The folder is not a model that can be read without running code."""


def adopt(folder: str) -> storage.Manifest:
    """Write a manifest into the folder and return it. If the folder was adopted before, verify it
    and keep its manifest. Raises AdoptionError or StorageError."""
    if storage.is_remote(folder):
        raise AdoptionError(
            f"{folder} is on S3, where adopting in place is not possible; copy it to a disk and adopt the copy"
        )
    path = Path(folder)
    if not path.is_dir():
        raise AdoptionError(f"{folder} is not a folder; name the folder that save_pretrained wrote")
    if storage.has_artifact(folder):
        if not storage.has_own_manifest(folder):
            raise AdoptionError(
                f"{path / storage.MANIFEST} is not a manifest of memlm, whose own would have this name; copy the model's files to another folder and adopt that"
            )
        storage.open_artifact(folder, kind=CHECKPOINT_KIND)
        return storage.read_manifest(folder)
    model_type = _model_type(path)
    names = _files_of(path)
    for name in names:
        if not (path / name).is_file():  # opening a pipe would wait for ever
            raise AdoptionError(f"{path / name} is a pipe or a broken link; move it out of the model's folder")
    _require_weights(path, names)
    return storage.add_manifest(folder, kind=CHECKPOINT_KIND, config={storage.ADOPTED: model_type}, names=names)


def _files_of(folder: Path) -> list[str]:
    found = {path.name for pattern in _PATTERNS for path in folder.glob(pattern) if not path.is_dir()}
    found |= {f"{_TEMPLATES}/{path.name}" for path in (folder / _TEMPLATES).glob("*.jinja") if not path.is_dir()}
    return sorted(name for name in found if not name.startswith("."))


def _model_type(folder: Path) -> str:
    place = folder / CONFIG_FILE
    if not place.is_file():
        raise AdoptionError(f"{folder} has no {CONFIG_FILE}; name the folder that save_pretrained wrote")
    with reading(
        lambda reason: AdoptionError(f"{place} is not a model configuration ({reason}); save the model again")
    ):
        model_type = json.loads(place.read_bytes())["model_type"]
    if not isinstance(model_type, str):
        raise AdoptionError(f"{place}: model_type is {model_type!r}; it must be a name such as 'llama'")
    return model_type


def _require_weights(folder: Path, names: list[str]) -> None:
    """Require all weight files that the index lists, and that safetensors can read each."""
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        raise AdoptionError(
            f"{folder} has no weights as safetensors, the only format that memlm reads; save the model with save_pretrained again"
        )
    if INDEX_FILE in names:
        place = folder / INDEX_FILE
        with reading(
            lambda reason: AdoptionError(f"{place} is not an index of weights ({reason}); save the model again")
        ):
            wanted = set(json.loads(place.read_bytes())["weight_map"].values())
        missing = sorted(wanted - set(weights))
        if missing:
            raise AdoptionError(f"{folder} lacks {missing[0]}, which its index lists; copy the whole folder")
    for name in weights:
        _require_readable(folder / name)


def _require_readable(place: Path) -> None:
    with (
        reading(lambda reason: AdoptionError(f"{place} cannot be read ({reason}); copy it again")),
        safe_open(place, framework="pt"),
    ):
        pass
