"""Findings of checkov in infra/, without those waived with a reason in waivers.toml."""

import json
import re
import subprocess
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.infra.frame import Outcome, Row
from tests.infra.offline import INFRA, TOOLS, Unavailable

WAIVERS = Path(__file__).parents[1] / "waivers.toml"
REASON_WORDS = 6


@dataclass(frozen=True)
class Finding:
    check: str
    resource: str
    file: str
    name: str

    def __str__(self) -> str:
        return f"{self.check} {self.resource} ({self.file}): {self.name}"


@dataclass(frozen=True)
class Waiver:
    check: str
    resource: str  # a regular expression of whole addresses
    reason: str

    def covers(self, finding: Finding) -> bool:
        return finding.check == self.check and re.fullmatch(self.resource, finding.resource) is not None


@dataclass(frozen=True)
class Checked:
    passed: int
    failed: list[Finding]
    skipped: list[tuple[Finding, str]]  # by a comment in the HCL, with its reason


def waivers() -> list[Waiver]:
    found = tomllib.loads(WAIVERS.read_text()).get("waiver", [])
    return [Waiver(check=w["check"], resource=w["resource"], reason=" ".join(w["reason"].split())) for w in found]


def check(infra: Path) -> Checked:
    """Raises Unavailable."""
    program = TOOLS / "bin" / "checkov"
    if not program.exists():
        raise Unavailable(f"there is no {program}: run `make .venv-infra`")
    command = [
        program,
        "--directory",
        infra,
        "--framework",
        "terraform",
        "--skip-download",
        "--quiet",
        "--output",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise RuntimeError(f"checkov says {done.stdout[-2000:]}\n{done.stderr[-4000:]}") from None
    reports = report if isinstance(report, list) else [report]
    results = [r["results"] for r in reports if "results" in r]
    broken = [error for r in results for error in r.get("parsing_errors", ())]
    if broken or not results:
        raise RuntimeError(f"checkov cannot read {broken or infra}")
    return Checked(
        passed=sum(r["summary"]["passed"] for r in reports if "summary" in r),
        failed=[_finding(found) for r in results for found in r["failed_checks"]],
        skipped=[
            (_finding(found), found["check_result"].get("suppress_comment") or "")
            for r in results
            for found in r.get("skipped_checks", [])
        ],
    )


def _finding(found: dict[str, Any]) -> Finding:
    return Finding(found["check_id"], found["resource"], found["file_path"], found["check_name"])


def unwaived(checked: Checked) -> list[Finding]:
    known = waivers()
    return [finding for finding in checked.failed if not any(waiver.covers(finding) for waiver in known)]


def _run() -> Outcome:
    checked, known = check(INFRA), waivers()
    wrong = [str(finding) for finding in unwaived(checked)]
    for waiver in known:
        if not any(waiver.covers(finding) for finding in checked.failed):
            wrong.append(f"the waiver of {waiver.check} for {waiver.resource} waives nothing")
        if len(waiver.reason.split()) < REASON_WORDS:
            wrong.append(f"the waiver of {waiver.check} for {waiver.resource} gives no reason")
    wrong += [
        f"{finding} is skipped without a reason" for finding, why in checked.skipped if len(why.split()) < REASON_WORDS
    ]
    used = Counter(finding.check for finding in checked.failed)
    return Outcome(
        ok=not wrong and checked.passed > 0,
        measured=f"{checked.passed} checks passed, {len(known)} waivers with a reason, {len(wrong)} things wrong",
        details={
            "wrong": wrong,
            "waivers": {f"{w.check} {w.resource}": w.reason for w in known},
            "waived_findings": dict(used),
            "skipped_in_place": [f"{finding}: {why}" for finding, why in checked.skipped],
        },
    )


ROWS = [
    Row(
        name="checkov",
        bar="no finding without a waiver, no waiver without a reason and a finding",
        run=_run,
        seconds=30,
    )
]
