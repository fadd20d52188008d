"""Submit a pipeline to the Ray cluster whose `environment` command (terraform output) was run in
this shell.

    python infra/jobs/submit.py PIPELINE [RECIPE] [--FIELD VALUE ...]
    python infra/jobs/submit.py --print PIPELINE [RECIPE] [--FIELD VALUE ...]   # show the command

It uploads the files that git tracks, in their current state in the checkout, except for those that
.rayignore excludes: `git add` a file of your own that a job needs. The same work (code, pipeline,
recipe and settings) has the same submission id. So submitting it again follows the job while it
runs, says so if it is done, and resumes it if it failed or was stopped. Pretraining on more than
one GPU begins only once the cluster has passed infra/jobs/nccl_smoke.py.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memlm.cli import parse
from memlm.credentials import without_secrets

ROOT = Path(__file__).parents[2]
RUNTIME_ENV = "infra/jobs/runtime_env.yaml"
PRETRAINING = ("pretrain", "pareto_sweep")
"""Pipelines that pretrain; a sweep makes the checkpoints that it lacks."""
NEEDED = {
    "RAY_ADDRESS": "the dashboard's address",
    "MEMLM_STORAGE": "the address of the runs",
    "MEMLM_TRACKING": "MLflow's address",
}


class SubmitError(ValueError):
    """Something is missing in the command line or in this shell."""


def pipelines() -> list[str]:
    return sorted(path.stem for path in (ROOT / "pipelines").glob("*.py"))


def entrypoint(pipeline: str, arguments: list[str], environment: dict[str, str]) -> list[str]:
    """Command that runs on the head. Given settings come after the cluster's own, and override
    them."""
    known = pipelines()
    if pipeline not in known:
        raise SubmitError(f"unknown pipeline {pipeline!r}; known: {', '.join(known)}")
    missing = [f"{name} ({what})" for name, what in NEEDED.items() if not environment.get(name)]
    if not (environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH")):
        missing.append("RAY_AUTH_TOKEN (the cluster's token)")
    if missing:
        raise SubmitError(
            f"{', '.join(missing)} not set; run the cluster's `environment` command first (terraform output commands)"
        )
    recipe = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    settings = ["--storage", environment["MEMLM_STORAGE"], "--tracking", environment["MEMLM_TRACKING"]]
    settings += ["--cluster.use-gpu", environment.get("MEMLM_USE_GPU", "False")]
    return ["python", f"pipelines/{pipeline}.py", *recipe, *settings, *arguments[len(recipe) :]]


def git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SubmitError(
            f"git does not say what belongs to {ROOT} ({type(error).__name__}), and only what git tracks is uploaded; submit from a git checkout"
        ) from error


def code_digest() -> str:
    """Digest of the upload: the commit, and the changes to the files that git tracks."""
    return hashlib.sha256(git("rev-parse", "HEAD") + git("diff", "HEAD", "--binary")).hexdigest()


def names(listed: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


def tracked_files() -> list[str]:
    """Files that git tracks and the checkout has. A link counts only if it leads to another of
    these files."""
    tracked = [name for name in names(git("ls-files", "-z")) if (ROOT / name).is_file()]
    inside = {(ROOT / name).absolute() for name in tracked if not (ROOT / name).is_symlink()}
    kept = [name for name in tracked if not (ROOT / name).is_symlink() or (ROOT / name).resolve() in inside]
    for name in sorted(set(tracked) - set(kept)):
        print(f"not uploaded: {name} is a link that leads out of what git tracks", file=sys.stderr)
    return kept


def untracked() -> list[str]:
    return names(git("ls-files", "--others", "--exclude-standard", "--directory", "-z"))


@contextmanager
def upload() -> Iterator[Path]:
    """A folder with a copy of the tracked files; Ray leaves out those that .rayignore names."""
    with tempfile.TemporaryDirectory(prefix="memlm-job-") as folder:
        for name in tracked_files():
            copy = Path(folder) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy)
        yield Path(folder)


def submission_id(command: list[str], code: str) -> str:
    digest = hashlib.sha256("\0".join([code, *command]).encode()).hexdigest()
    return f"{Path(command[1]).stem}-{parse('', command[2:]).run_name}-{digest[:12]}"


def submit_command(identity: str, command: list[str], folder: str = ".") -> list[str]:
    options = ["--submission-id", identity, "--working-dir", folder, "--runtime-env", RUNTIME_ENV]
    return ["ray", "job", "submit", *options, "--", *command]


def smoke_command(command: list[str]) -> list[str]:
    """Arguments of the gate of a pretraining; empty if there is nothing to gate. The number of
    workers may be the recipe's."""
    config = parse("", command[2:])
    workers, gpu = config.cluster.num_workers, config.cluster.use_gpu
    if Path(command[1]).stem not in PRETRAINING or config.dry_run or workers < 2 or not gpu:
        return []
    return ["python", "infra/jobs/nccl_smoke.py", "--num-workers", str(workers), "--storage", config.storage]


def is_settled(identity: str) -> bool:
    """Whether the job runs or is done. Then there is nothing to gate, and a gate would wait for the
    GPUs that the job holds."""
    from ray.job_submission import JobStatus

    return known_jobs().get(identity) in (JobStatus.PENDING, JobStatus.RUNNING, JobStatus.SUCCEEDED)


def known_jobs() -> dict[str, Any]:
    """Status of each submission. Raises RunError, in one line, if the cluster does not answer or
    does not accept the token."""
    from ray.job_submission import JobSubmissionClient  # slow to import, so only once the command line is valid

    from memlm.jobs.on_ray.cluster import joining

    with joining():
        return {job.submission_id: job.status for job in JobSubmissionClient().list_jobs()}


def run(identity: str, command: list[str], *, again: bool = False) -> int:
    """Submit, follow or resume a job; with `again`, repeat one that has ended, however it ended.
    Returns the exit code."""
    status = known_jobs().get(identity)
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient()
    if status in (JobStatus.PENDING, JobStatus.RUNNING):
        print(f"{identity} is {status.value.lower()}; following it (Ctrl-C stops following, not the job)", flush=True)
        subprocess.run(["ray", "job", "logs", "--follow", identity], cwd=ROOT, check=False)
        return 0 if client.get_job_status(identity) == JobStatus.SUCCEEDED else 1
    if status == JobStatus.SUCCEEDED and not again:
        print(f"{identity} is done; its log: ray job logs {identity}")
        return 0
    if status is not None:
        print(f"{identity} was {status.value.lower()}; resuming it", flush=True)
        client.delete_job(identity)
    with upload() as folder:
        return subprocess.run(submit_command(identity, command, str(folder)), cwd=ROOT, check=False).returncode


def main(arguments: list[str]) -> int:
    only_print = "--print" in arguments
    arguments = [argument for argument in arguments if argument != "--print"]
    try:
        if not arguments:
            raise SubmitError(f"which pipeline? Known: {', '.join(pipelines())}")
        command = entrypoint(arguments[0], arguments[1:], dict(os.environ))
        smoke, identity = smoke_command(command), submission_id(command, code_digest())
    except SubmitError as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        return 2
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # otherwise Ray's clients would not send the token
    try:
        return submit(identity, command, smoke, only_print=only_print)
    except ValueError as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
        return 1


def submit(identity: str, command: list[str], smoke: list[str], *, only_print: bool) -> int:
    """Run both steps, or print their calls. Returns the exit code."""
    if smoke and not only_print and is_settled(identity):
        smoke = []
    if (others := untracked()) and not only_print:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        print(f"not uploaded, because git does not track it: {', '.join(others[:5])}{more}", file=sys.stderr)
    steps = [(f"smoke-{identity}", smoke), (identity, command)] if smoke else [(identity, command)]
    for name, step in steps:
        print(shlex.join(submit_command(name, step)), flush=True)
        if only_print:
            continue
        code = run(name, step, again=name != identity)
        if code:
            print(f"error: {name} ended with {code}", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
