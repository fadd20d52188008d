"""An environment of infra/envs that is applied, offline: its resources with all their values,
and its outputs."""

import atexit
import functools
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.infra.offline import Terraform, Unavailable, copy_infra, terraform

ENVIRONMENTS = {"dev": ("main",), "prod": ("pretrain", "sweep")}
"""Environments with their clusters."""
SECRET = "9f" * 20  # begins every token and password; found nowhere but where it was given
LOCAL_STATE = 'terraform {\n  backend "local" {}\n}\n'
EXAMPLE = "example.tfvars"


@dataclass(frozen=True)
class Resource:
    address: str
    type: str
    values: dict[str, Any]

    @property
    def module(self) -> str:
        """Its module's path, by names alone: module.cluster.module.nodes -> cluster/nodes."""
        return "/".join(re.findall(r"module\.(\w+)", self.address))


@dataclass(frozen=True)
class Stack:
    name: str
    folder: Path  # envs/NAME in a copy of infra/
    resources: tuple[Resource, ...]
    outputs: dict[str, Any]

    def of(self, *types: str) -> list[Resource]:
        return [resource for resource in self.resources if resource.type in types]

    @property
    def state(self) -> str:
        return (self.folder / "terraform.tfstate").read_text()


class TerraformFailed(Exception):
    """A command ended with another status than 0; the text is what it printed."""


def run(folder: Path, *arguments: str, by: Terraform | None = None) -> str:
    done = (by or terraform())(folder, *arguments)
    if done.returncode:
        raise TerraformFailed(
            f"terraform {' '.join(arguments)} in {folder}:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
        )
    return done.stdout


def variables(name: str) -> list[str]:
    """Variables of an environment in its tests: its own example, and secrets."""
    tokens = {cluster: f"{SECRET}-{cluster}" for cluster in ENVIRONMENTS[name]}
    passwords = {user: f"{SECRET}-{user}" for user in ("admin", "pipelines")}
    return [
        f"-var-file={EXAMPLE}",
        f"-var=ray_tokens={json.dumps(tokens)}",
        f"-var=mlflow_passwords={json.dumps(passwords)}",
    ]


def apply(infra: Path, name: str, *, by: Terraform | None = None) -> Stack:
    """`init` and `apply` in this copy of infra/. Raises TerraformFailed, Unavailable."""
    if terraform().real:
        raise Unavailable("applying with the real provider would make real machines; unset MEMLM_REAL_AWS_PROVIDER")
    folder = infra / "envs" / name
    (folder / "local_override.tf").write_text(LOCAL_STATE)
    run(folder, "init", "-no-color", by=by)
    run(folder, "apply", "-no-color", "-auto-approve", *variables(name), by=by)
    return read(folder, by=by)


def read(folder: Path, *, by: Terraform | None = None) -> Stack:
    shown = json.loads(run(folder, "show", "-json", by=by))["values"]
    resources = tuple(_resources(shown["root_module"]))
    return Stack(folder.name, folder, resources, {name: o["value"] for name, o in shown.get("outputs", {}).items()})


def _resources(module: Mapping[str, Any]) -> Iterator[Resource]:
    for found in module.get("resources", ()):
        if found["mode"] == "managed":
            yield Resource(found["address"], found["type"], found["values"])
    for child in module.get("child_modules", ()):
        yield from _resources(child)


@functools.cache
def applied(name: str) -> Stack:
    """The stack of infra/ as it is, applied once for all rows of this process."""
    folder = Path(tempfile.mkdtemp(prefix="memlm-infra-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return apply(copy_infra(folder), name)


def second_plan(stack: Stack) -> tuple[bool, str]:
    """Whether a plan after the apply changes nothing, and its output otherwise."""
    done: subprocess.CompletedProcess[str] = terraform()(
        stack.folder, "plan", "-no-color", "-detailed-exitcode", *variables(stack.name)
    )
    if done.returncode == 1:
        raise TerraformFailed(done.stderr[-4000:])
    return done.returncode == 0, "" if done.returncode == 0 else done.stdout[-4000:]
