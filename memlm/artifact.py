"""A product of a run: what it is made of, whether it is there, and how it is written and read.
This module imports no torch."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memlm import storage
from memlm.identity import first_difference
from memlm.stages import RunError


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A product of a stage, as a config asks for it. It may not exist yet, or differ from what is
    asked."""

    uri: str
    kind: str
    identity: Mapping[str, Any]
    """The settings that name it, as JSON."""
    inputs: "Mapping[str, str | Artifact]" = field(default_factory=dict)
    """Its ingredients by name: their digests, or artifacts of the same run."""
    part: str = ""
    """Path of the identity's fields in the config, so that errors name them as they are set."""
    made_by: str = ""
    """Command line that makes it."""
    is_spent: bool = False
    """Whether it may be missing once the artifacts made from it exist."""

    @property
    def units(self) -> str:
        """Folder of its units, while it is made unit by unit."""
        return f"{self.uri}-partial"

    @property
    def digest(self) -> str:
        return self.manifest().digest

    def is_there(self) -> bool:
        """Whether an artifact exists at the uri, however it was made."""
        return storage.has_artifact(self.uri)

    def is_made(self) -> bool:
        """Whether it exists, made from these settings and inputs. Raises RunError if it was made
        from others, or if an input that is an artifact does not exist."""
        inputs = self.digests()
        if not self.is_there():
            return False
        manifest = self.manifest()
        for name, wanted in inputs.items():
            if manifest.inputs.get(name) != wanted:
                raise RunError(
                    f"{self.uri} was made from a different {name} than this run now has; give another --run-name, or move {self.uri} away to make it again"
                )
        difference = first_difference(manifest.config, self.identity, self.part)
        if difference is not None:
            changed, made, wanted = difference
            raise RunError(
                f"{self.uri} was made with {changed} = {made!r}, and now {changed} = {wanted!r} is asked for; "
                f"give another --run-name, or set {changed} back, or move {self.uri} away to make it again"
            )
        return True

    def require(self) -> storage.Manifest:
        """Its manifest. Raises RunError naming the command that makes it if it does not exist, or
        the field in which it differs."""
        if not self.is_made():
            raise RunError(f"{self.uri} is missing; make it with: {self.made_by}")
        return self.manifest()

    def manifest(self) -> storage.Manifest:
        """The manifest at the uri. Raises StorageError if there is none, or of another kind."""
        return storage.read_manifest(self.uri, self.kind)

    def digests(self) -> dict[str, str]:
        """Digests of its inputs as they are now. Raises RunError as `require` does."""
        return {
            name: each if isinstance(each, str) else each.require().digest
            for name, each in self.inputs.items()
            if isinstance(each, str) or not each.is_spent or each.is_made()
        }

    def made_from(self, **inputs: str) -> "Artifact":
        """The same artifact, made from inputs of these digests and no others."""
        return replace(self, inputs=inputs)

    def pinned(self) -> "Artifact":
        """The same artifact, made from its inputs as they are now, even if they are replaced later.
        Raises RunError as `require` does."""
        return self.made_from(**self.digests())

    def write(self) -> AbstractContextManager[storage.Draft]:
        """Give a draft to fill; on a clean exit it becomes the artifact."""
        return storage.write_artifact(self.uri, kind=self.kind, config=self.identity, inputs=self.digests())

    def open(self, *, digest: str | None = None) -> Path:
        """Folder on this machine with its verified files. With a digest, raises StorageError if it
        is not that very artifact."""
        return storage.open_artifact(self.uri, kind=self.kind, digest=digest)

    def open_temporarily(self) -> AbstractContextManager[Path]:
        """Like `open`, for files that are read only once: a copy made on this machine is
        removed."""
        return storage.open_artifact_temporarily(self.uri, kind=self.kind)
