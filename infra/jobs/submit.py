"""Submit a pipeline to the Ray cluster whose `environment` command (terraform output) was run in this shell.

python infra/jobs/submit.py PIPELINE [RECIPE] [--FIELD VALUE ...]
python infra/jobs/submit.py --print PIPELINE [RECIPE] [--FIELD VALUE ...]       # only show the command

The same work (code, pipeline, recipe and settings) has the same submission id. So giving it again follows the job that runs, says so if
it is done, and goes on with it if it failed or was stopped. What pretrains on more than one GPU begins only when the cluster has just
passed infra/jobs/nccl_smoke.py.
"""

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

from memlm.cli import parse

ROOT = Path(__file__).parents[2]
RUNTIME_ENV = "infra/jobs/runtime_env.yaml"
PRETRAINING = ("pretrain", "pareto_sweep")
"""Pipelines that pretrain; a sweep makes the checkpoints that it lacks."""
NEEDED = {
    "RAY_ADDRESS": "the dashboard's address",
    "MEMLM_STORAGE": "where runs lie",
    "MEMLM_TRACKING": "MLflow's address",
}


class SubmitError(ValueError):
    """The command line or this shell lacks something."""


def pipelines() -> list[str]:
    return sorted(path.stem for path in (ROOT / "pipelines").glob("*.py"))


def entrypoint(pipeline: str, arguments: list[str], environment: dict[str, str]) -> list[str]:
    """What runs on the head. Settings that are given come after the cluster's own, and win."""
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


def code_digest() -> str:
    """Of what is uploaded: the commit, and what differs from it."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout

    digest = hashlib.sha256(git("rev-parse", "HEAD") + git("diff", "HEAD", "--binary"))
    for name in git("ls-files", "--others", "--exclude-standard", "-z").split(b"\0"):
        if name:
            digest.update(name + b"\0" + (ROOT / os.fsdecode(name)).read_bytes())
    return digest.hexdigest()


def submission_id(command: list[str], code: str) -> str:
    digest = hashlib.sha256("\0".join([code, *command]).encode()).hexdigest()
    return f"{Path(command[1]).stem}-{parse('', command[2:]).run_name}-{digest[:12]}"


def submit_command(identity: str, command: list[str]) -> list[str]:
    options = ["--submission-id", identity, "--working-dir", ".", "--runtime-env", RUNTIME_ENV]
    return ["ray", "job", "submit", *options, "--", *command]


def smoke_command(command: list[str]) -> list[str]:
    """The gate of a pretraining; empty where there is nothing to gate. The number of workers may be the recipe's own."""
    config = parse("", command[2:])
    workers, gpu = config.cluster.num_workers, config.cluster.use_gpu
    if Path(command[1]).stem not in PRETRAINING or config.dry_run or workers < 2 or not gpu:
        return []
    return ["python", "infra/jobs/nccl_smoke.py", "--num-workers", str(workers), "--storage", config.storage]


def is_settled(identity: str) -> bool:
    """Runs already or is done: then there is nothing to gate, and a gate would wait for the GPUs that the job holds."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    settled = (JobStatus.PENDING, JobStatus.RUNNING, JobStatus.SUCCEEDED)
    return any(job.submission_id == identity and job.status in settled for job in JobSubmissionClient().list_jobs())


def run(identity: str, command: list[str], *, again: bool = False) -> int:
    """Submit, or follow, or go on; with `again` what is over is done once more, however it ended. Returns the exit code."""
    from ray.job_submission import JobStatus, JobSubmissionClient  # slow, so only when the command line is in order

    client = JobSubmissionClient()
    known = {job.submission_id: job.status for job in client.list_jobs()}
    status = known.get(identity)
    if status in (JobStatus.PENDING, JobStatus.RUNNING):
        print(f"{identity} is {status.value.lower()}; following it (Ctrl-C stops following, not the job)", flush=True)
        subprocess.run(["ray", "job", "logs", "--follow", identity], cwd=ROOT, check=False)
        return 0 if client.get_job_status(identity) == JobStatus.SUCCEEDED else 1
    if status == JobStatus.SUCCEEDED and not again:
        print(f"{identity} is done; its log: ray job logs {identity}")
        return 0
    if status is not None:
        print(f"{identity} was {status.value.lower()}; going on with it", flush=True)
        client.delete_job(identity)
    return subprocess.run(submit_command(identity, command), cwd=ROOT, check=False).returncode


def main(arguments: list[str]) -> int:
    only_print = "--print" in arguments
    arguments = [argument for argument in arguments if argument != "--print"]
    try:
        if not arguments:
            raise SubmitError(f"which pipeline? Known: {', '.join(pipelines())}")
        command = entrypoint(arguments[0], arguments[1:], dict(os.environ))
    except SubmitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    smoke, identity = smoke_command(command), submission_id(command, code_digest())
    if smoke and not only_print and is_settled(identity):
        smoke = []
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
