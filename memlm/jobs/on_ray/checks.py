"""Checks of the surroundings, each with a result on one line. `memlm doctor` runs all of them, a
pipeline only the ones that it needs."""

import functools
import importlib.metadata
import os
import platform
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import memlm
from memlm import storage, tracking
from memlm.config import IN_JOB, Config
from memlm.credentials import VARIABLES, CredentialError, read_credential
from memlm.jobs.on_ray import local_ray
from memlm.kinds import CHECKPOINTS_FILE
from memlm.run import RunError, run_of, tracking_uri

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of a check: its name, its state, and the remedy if it failed."""

    name: str
    state: State = "ok"
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:5} {self.name}: {self.found}{self.remedy and '. ' + self.remedy}"


def require(checks: Iterable[Check]) -> None:
    """Raise RunError for the first check that failed."""
    for check in checks:
        if check.state == "fail":
            raise RunError(f"{check.name}: {check.found}. {check.remedy}")


def require_ready(config: Config) -> None:
    """Check once per process what every pipeline needs: package versions and reliable storage.

    A folder on one machine needs no check. A cluster's folder is on a shared file system, whose
    locks may not work.
    """
    require([*_versions_once(), credentials(config)])
    if storage.is_remote(config.storage) or os.environ.get(IN_JOB):
        require([_storage_once(config.storage, os.environ.get("AWS_ENDPOINT_URL_S3"))])
    require([run_folder(config)])


def run_folder(config: Config) -> Check:
    """Check that a run's folder is new or made by memlm: in any other folder, the report could
    overwrite a file of the same name."""
    uri = run_of(config).uri
    names = [name for name in storage.list_names(uri) if name.strip(".")]  # a key on S3 may have empty parts, or dots
    if not any(_is_made(uri, name) for name in names):  # the first things in a run's folder have manifests
        file = next((name for name in names if _is_file(uri, name)), None)
        if file is not None:
            found = f"{uri} contains {file} and nothing that memlm made"
            return Check(name="run folder", state="fail", found=found, remedy="Give another --run-name or --storage")
    return Check(name="run folder", found=uri)


def _is_made(uri: str, name: str) -> bool:
    place = storage.join(uri, name)
    if name == CHECKPOINTS_FILE:
        return _is_list_of_checkpoints(place)
    return (storage.is_remote(uri) or Path(place).is_dir()) and storage.has_own_manifest(place)


def _is_list_of_checkpoints(place: str) -> bool:
    try:
        return "runs" in storage.read_record(place)
    except storage.StorageError:
        return False


def _is_file(uri: str, name: str) -> bool:
    place = storage.join(uri, name)
    return storage.stat_object(place) is not None if storage.is_remote(uri) else Path(place).is_file()


@functools.cache
def _versions_once() -> tuple[Check, ...]:
    return (python(), *packages())


@functools.cache
def _storage_once(uri: str, endpoint: str | None) -> Check:
    return probe_storage(uri)


def python() -> Check:
    wanted, here = SpecifierSet(_pinned().python), platform.python_version()
    if here in wanted:
        return Check(name="python", found=f"{here} ({sys.executable})")
    remedy = f"Make the environment with Python {wanted}"
    return Check(name="python", state="fail", found=f"{here}, and memlm needs {wanted}", remedy=remedy)


def packages() -> list[Check]:
    """One check for each package that is missing or has an unsupported version; one for all if none
    has."""
    pins = _pinned()
    checks = [
        *(check for each in pins.packages if (check := _package(each)) is not None),
        *(check for each in pins.cluster if (check := _package(each, extra="cluster")) is not None),
    ]
    number = len(pins.packages) + len(pins.cluster)
    return checks or [Check(name="packages", found=f"{number}, all with supported versions")]


def _package(requirement: Requirement, *, extra: str = "") -> Check | None:
    name, remedy = f"package {requirement.name}", f"pip install '{requirement}'"
    try:
        here = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        remedy = f"pip install 'memlm[{extra}]'" if extra else remedy
        return Check(name=name, state="fail", found="is not installed", remedy=remedy)
    if requirement.specifier.contains(here, prereleases=True):
        return None
    pins = [Version(pin.version) for pin in requirement.specifier if pin.operator == "=="]
    near = bool(pins) and pins[0].release[:2] == Version(here).release[:2]
    found = f"is {here}, and {requirement.specifier} is what memlm was tested with"
    return Check(name=name, state="warn" if near else "fail", found=found, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class _Pins:
    python: str
    packages: tuple[Requirement, ...]
    cluster: tuple[Requirement, ...] = ()
    """Packages of the extra that pipelines need."""


@functools.cache
def _pinned() -> _Pins:
    """Pins of the running checkout, else of the installed package."""
    project = Path(memlm.__file__).parents[1] / "pyproject.toml"
    if project.is_file() and (project_table := tomllib.loads(project.read_text())["project"])["name"] == "memlm":
        return _Pins(
            python=project_table["requires-python"],
            packages=tuple(map(Requirement, project_table["dependencies"])),
            cluster=tuple(map(Requirement, project_table["optional-dependencies"]["cluster"])),
        )
    found = [Requirement(line) for line in importlib.metadata.requires("memlm") or ()]
    python = importlib.metadata.metadata("memlm")["Requires-Python"]
    return _Pins(
        python=python,
        packages=tuple(each for each in found if each.marker is None),
        cluster=tuple(each for each in found if each.marker and each.marker.evaluate({"extra": "cluster"})),
    )


def credentials(config: Config) -> Check:
    """Check that credentials are well-formed, since clients print a malformed one in their
    errors."""
    name, known = "credentials", dict.fromkeys([*VARIABLES, config.writer.endpoint.api_key_variable])
    try:
        given = [variable for variable in known if read_credential(variable)]
    except CredentialError as error:
        found, _, remedy = str(error).partition("; ")
        return Check(name=name, state="fail", found=found, remedy=remedy)
    return Check(name=name, found=f"from the environment: {', '.join(given) or 'none'}")


def ray_authentication() -> Check:
    """Check that the cluster asks for a token."""
    name, mode = "ray authentication", os.environ.get("RAY_AUTH_MODE", "")
    shared = bool(os.environ.get("RAY_ADDRESS") or os.environ.get(IN_JOB))
    if not shared:
        return _token_of_a_local_ray(name)
    if mode.lower() == "token":
        return _ray_token(name)
    return Check(
        name=name,
        state="warn",
        found=f"none (RAY_AUTH_MODE is {mode or 'not set'}): anyone anyone who reaches the cluster's ports can run code on it",
        remedy="Set RAY_AUTH_MODE=token on every node and here, with RAY_AUTH_TOKEN_PATH naming a file with the token",
    )


def _token_of_a_local_ray(name: str) -> Check:
    """Check of the local Ray's token, for a run without RAY_ADDRESS; a run mends some problems
    itself."""
    try:
        local_ray.require_known_mode()
    except RunError as error:
        found, _, remedy = str(error).partition(". ")
        return Check(name=name, state="fail", found=found, remedy=remedy)
    if not local_ray.asks_for_token():
        found = f"none (RAY_AUTH_MODE is {os.environ[local_ray.MODE]}): {local_ray.WITHOUT_TOKEN}"
        return Check(name=name, state="warn", found=found, remedy="Unset RAY_AUTH_MODE")
    where = "a local Ray listens only on loopback"
    file = local_ray.token_file()
    if file is None:
        return Check(name=name, found=f"token, from RAY_AUTH_TOKEN; {where}")
    try:
        problem = file.problem()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if not problem:
        return Check(name=name, found=f"token, from {file.path}, which a run makes if it is missing; {where}")
    mends = not file.is_named and file.path.is_file() and file.path.stat().st_uid == os.geteuid()
    state: State = "warn" if mends and "mode" in problem else "fail"
    return Check(name=name, state=state, found=f"Ray's token {file.path} {problem}", remedy=local_ray.remedy(file))


def _ray_token(name: str) -> Check:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Check(name=name, found="token, from RAY_AUTH_TOKEN")
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.is_file() or not os.access(path, os.R_OK):
        remedy = "Write the cluster's token there, or name its file by RAY_AUTH_TOKEN_PATH"
        return Check(name=name, state="fail", found=f"token, and {path} cannot be read", remedy=remedy)
    if path.stat().st_mode & 0o077:
        found = f"token, and {path} can be read by others"
        return Check(name=name, state="warn", found=found, remedy=f"chmod 600 {path}")
    return Check(name=name, found=f"token, from {path}")


def probe_storage(uri: str) -> Check:
    """Check that the storage supports conditional writes; deletes its test objects afterwards."""
    try:
        seen = storage.require_conditional_writes(uri)
    except storage.StorageError as error:
        return Check(
            name="storage", state="fail", found=f"{error.value}: {error.rule}", remedy=error.remedy.rstrip(".")
        )
    found = f"{uri}: written, read, listed and deleted, and conditional writes hold ({seen.seconds:.1f} s)"
    return Check(name="storage", found=found)


def probe_tracking(config: Config) -> Check:
    try:
        uri = tracking_uri(config)
        if not uri:
            return Check(name="tracking", found="off")
        if uri.startswith("sqlite:") and not tracking.database_of(uri).exists():
            return Check(name="tracking", found=f"{uri} will be made")
        version = tracking.probe(uri)
    except (RunError, tracking.TrackingError) as error:
        return Check(
            name="tracking", state="fail", found=str(error).rstrip("."), remedy="Or leave tracking out: --tracking off"
        )
    here = importlib.metadata.version("mlflow")
    if version and version != here:
        found = f"{uri}: MLflow {version}, written to and deleted; here it is {here}"
        return Check(name="tracking", state="warn", found=found, remedy="Run the same version on both sides")
    return Check(name="tracking", found=f"{uri}: MLflow {version or here}, written to and deleted")


def compilers() -> Check:
    """Check that the CPU's C++ kernels can be built; Triton compiles those of a GPU."""
    from memlm.model.kernels.native import INSTALL_TOOLS, missing_tools  # imports torch, which takes time

    if missing := missing_tools():
        found = (
            f"{' and '.join(missing)} not found: on a CPU the memory layer runs on plain torch, same results, slower"
        )
        return Check(
            name="compilers", state="warn", found=found, remedy=f"{INSTALL_TOOLS[0].upper()}{INSTALL_TOOLS[1:]}"
        )
    return Check(name="compilers", found="a C++ compiler and ninja")
