"""`terraform fmt`, `validate` and `test` of infra/: the stub provider's schema, and every
assertion of the .tftest.hcl files."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.infra.contract import broken
from tests.infra.frame import Outcome, Row
from tests.infra.offline import INFRA, Terraform, Unavailable, copy_infra, quick_terraform, terraform
from tests.infra.stack import ENVIRONMENTS, TerraformFailed, applied, run, second_plan


@dataclass(frozen=True)
class Tested:
    folder: str  # below infra/
    passed: int  # run blocks
    failed: int
    assertions: int
    output: str

    @property
    def ok(self) -> bool:
        return self.failed == 0 and self.passed > 0


def roots(infra: Path) -> list[Path]:
    """Folders for `terraform test`, with test files in them or in their tests/."""
    files = infra.rglob("*.tftest.hcl")
    return sorted({file.parent.parent if file.parent.name == "tests" else file.parent for file in files})


def count_assertions(folder: Path) -> int:
    """Number of assertions of a root: its `assert` blocks, and the objects that a run expects to
    fail."""
    files = [*folder.glob("*.tftest.hcl"), *folder.glob("tests/*.tftest.hcl")]
    return sum(
        len(re.findall(r"^\s*assert\s*\{", text, re.MULTILINE))
        + len(re.findall(r"^\s*expect_failures\s*=", text, re.MULTILINE))
        for text in (file.read_text() for file in files)
    )


def check_root(infra: Path, root: Path, by: Terraform) -> Tested:
    initialised = by(root, "init", "-no-color", "-backend=false")
    if initialised.returncode:
        return Tested(str(root.relative_to(infra)), 0, 1, 0, initialised.stdout + initialised.stderr)
    done = by(root, "test", "-no-color", timeout=600)
    summary = re.search(r"(\d+) passed, (\d+) failed", done.stdout)
    passed, failed = (int(summary[1]), int(summary[2])) if summary else (0, 1)
    failed = max(failed, int(done.returncode != 0))
    return Tested(
        str(root.relative_to(infra)), passed, failed, count_assertions(root), done.stdout[-6000:] + done.stderr[-6000:]
    )


def unformatted() -> list[str]:
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", "-no-color", INFRA], capture_output=True, text=True
    )
    return done.stdout.split()


def _misspelt(folder: Path) -> Iterator[str]:
    """Wrong arguments that the real provider refuses, and so must this one, but a stub without its
    schema would accept."""
    for resource, argument in (
        ("aws_s3_bucket", 'bukcet = "a"'),
        ("aws_launch_template", 'metadata_optoins {\n    http_tokens = "required"\n  }'),
        ("aws_vpc", "cidr_block = [1]"),
        ("aws_kms_key", "enable_key_rotation = { on = true }"),
        ("aws_subnet", 'cidr_block = "10.0.0.0/24"'),  # vpc_id is missing
    ):
        place = folder / resource
        place.mkdir()
        (place / "main.tf").write_text(f'resource "{resource}" "x" {{\n  {argument}\n}}\n')
        run(place, "init", "-no-color")
        if terraform()(place, "validate", "-no-color").returncode == 0:
            yield f"{resource} with {argument!r} is taken for valid"


def _run() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="memlm-infra-") as folder:
        infra = copy_infra(Path(folder))
        with quick_terraform() as quick:
            tested = [check_root(infra, root, quick) for root in roots(infra)]
        (Path(folder) / "misspelt").mkdir()
        wrong = [*(f"not formatted: {file}" for file in unformatted()), *_misspelt(Path(folder) / "misspelt")]
        for environment in ENVIRONMENTS:
            run(infra / "envs" / environment, "init", "-no-color", "-backend=false")
            run(infra / "envs" / environment, "validate", "-no-color")
    wrong += [f"{t.folder}: {t.failed} failed\n{t.output}" for t in tested if not t.ok]
    promises = 0
    if not terraform().real:
        for environment in ENVIRONMENTS:
            wrong += [f"{environment}: {what}" for what in broken(applied(environment))]
            promises += 1
    assertions, runs = sum(t.assertions for t in tested), sum(t.passed for t in tested)
    return Outcome(
        ok=not wrong and assertions >= 60,
        measured=f"{assertions} assertions in {runs} runs, {len(wrong)} things wrong",
        details={"by_root": {t.folder: t.assertions for t in tested}, "wrong": wrong, "environments_checked": promises},
    )


def _run_second_plan() -> Outcome:
    if terraform().real:
        raise Unavailable("applying with the real provider would make real machines; unset MEMLM_REAL_AWS_PROVIDER")
    found, changes = {}, {}
    for name in ENVIRONMENTS:
        stack = applied(name)
        try:
            found[name], changes[name] = second_plan(stack)
        except TerraformFailed as failed:
            found[name], changes[name] = False, str(failed)
    resources = {name: len(applied(name).resources) for name in ENVIRONMENTS}
    return Outcome(
        ok=all(found.values()),
        measured=", ".join(
            f"{name}: {resources[name]} resources, {'empty' if found[name] else 'changes'}" for name in found
        ),
        details={"changes": {name: text for name, text in changes.items() if text}},
    )


ROWS = [
    Row(
        name="assertions",
        bar="fmt and validate clean, a misspelt argument refused, at least 60 assertions of .tftest.hcl and every promise hold",
        run=_run,
        seconds=60,
    ),
    Row(
        name="second_plan_empty",
        bar="a plan after apply changes nothing, in dev and prod",
        run=_run_second_plan,
        seconds=30,
    ),
]
