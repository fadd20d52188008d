"""A cluster made by the rendered boot scripts and the cluster's configuration, booted on a fake EC2
(fake_ec2/), with real work on it.

Terraform applies the modules; moto holds what it made; each instance is a machine of namespaces
that runs its user-data as cloud-init does. Then a count and a tiny pretraining run on it, each
loses a machine (the count's without a word, the other's after a spot notice), and each must end
as if it hadn't.
"""

import json
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from memlm.jobs import count_accesses, prepare_corpus, pretrain
from memlm.jobs.on_ray.cluster import connect
from tests.infra.fake_ec2.hypervisor import HOME, KERNELS, POWER_OFF, TOKEN_PATH, USER
from tests.infra.fake_ec2.region import ENDPOINT
from tests.infra.frame import Outcome, Row
from tests.infra.offline import Unavailable, copy_infra, terraform
from tests.infra.stack import Stack, read, run
from tests.jobs.running import smoke
from tests.nodes.cluster import HEALTH, SLOW_MACHINE
from tests.nodes.namespaces import run_apart, why_not

ROOT_MODULE = Path(__file__).parents[1] / "fake_ec2" / "main.tf"
SMALL_TYPES = ("m7i.large", "m6i.large", "m7a.large")
"""Number of machines with two CPUs each that this machine can simulate."""
NUM_STEPS, NUM_UNITS = 80, 120
"""Steps enough for a machine to be announced as lost, be drained, and be lost before the end."""
COMMON = (
    *("--cluster.num-workers", "3", "--cluster.num-trials-at-once", "3", "--cluster.max-failures", "10"),
    *("--pretraining.batch-blocks", "12", "--pretraining.micro-batch-blocks", "4"),
    *("--pretraining.num-steps", str(NUM_STEPS), "--pretraining.checkpoint-every", "8", "--pretraining.log-every", "1"),
    *("--counting.num-batches", str(NUM_UNITS), "--counting.batches-per-unit", "1", "--counting.max-attempts", "10"),
)
"""Three workers: a machine has two CPUs, so two machines are needed."""
COPIED = (
    "aws_launch_template",
    "aws_autoscaling_group",
    "aws_iam_role",
    "aws_iam_role_policy",
    "aws_iam_instance_profile",
)
COPIED += ("aws_vpc", "aws_subnet", "aws_security_group", "aws_s3_bucket")
TIMEOUT = 900.0


def apply_small_cluster(folder: Path, token: str) -> Stack:
    if terraform().real:
        raise Unavailable("applying with the real provider would make real machines; unset MEMLM_REAL_AWS_PROVIDER")
    infra = copy_infra(folder)
    _know_small_types(infra / "modules/ray_cluster/nodes/instances.tf")
    root = infra / "envs" / "fake"
    root.mkdir()
    shutil.copy(ROOT_MODULE, root)
    environment = {**HEALTH, **SLOW_MACHINE, "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "200000000"}
    environment["TORCH_EXTENSIONS_DIR"] = KERNELS
    machine = {
        "python_prefix": sys.prefix,
        "user": USER,
        "home": HOME,
        "token_path": TOKEN_PATH,
        "log_agent": "true",
        "power_off": f"touch {POWER_OFF}",
        "environment": {"AWS_ENDPOINT_URL": ENDPOINT, **environment},
    }
    run(root, "init", "-no-color")
    run(root, "apply", "-no-color", "-auto-approve", f"-var=token={token}", f"-var=machine={json.dumps(machine)}")
    return read(root)


def _know_small_types(table: Path) -> None:
    """Node types; a new one is one line."""
    before, mark, known = table.read_text().partition("  instance_types = {\n")
    assert mark
    lines = [
        f'    "{name}" = {{ vcpus = 2, gpus = 0, efa_cards = 0, usd_per_hour = 0.1 }}\n'
        for name in SMALL_TYPES
        if f'"{name}"' not in known
    ]
    table.write_text(before + mark + "".join(lines) + known)


def make_undisturbed(folder: Path) -> None:
    """Inputs of the cluster, `undisturbed`, and the results that it must reach, `expected`."""
    config = smoke(folder, *COMMON, "--tracking", "off")
    with connect(config):
        for job in (prepare_corpus, pretrain, count_accesses):
            job.run(config)
    made = folder / "smoke"
    (folder / "expected").mkdir()
    for name in ("counts", "checkpoint-memory"):
        shutil.copytree(made / name, folder / "expected" / name)
    shutil.copytree(
        made, folder / "undisturbed", ignore=shutil.ignore_patterns("ray", "counts*", "training-*", "leases")
    )


def _boot() -> dict[str, Any]:
    if reason := why_not():
        raise Unavailable(reason)
    folder = Path(tempfile.mkdtemp(prefix="memlm-fake-"))
    try:
        token = secrets.token_hex(32)
        stack = apply_small_cluster(folder, token)
        make_undisturbed(folder)
        arguments = {
            "folder": str(folder),
            "token": token,
            "token_secret_name": stack.outputs["token_secret_name"],
            "storage": stack.outputs["storage_uri"],
            "applied": {kind: [resource.values for resource in stack.of(kind)] for kind in COPIED},
            "count_options": list(COMMON),
            "pretrain_options": [*COMMON, "--run-name", "lost"],
        }
        return dict(run_apart("tests.infra.fake_ec2.inside", arguments, folder, timeout=TIMEOUT))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run() -> Outcome:
    found = _boot()
    strangers = found["strangers"]
    wrong = []
    for pipeline in ("count_accesses", "pretrain"):
        if found[pipeline]["differences"]:
            wrong.append(f"{pipeline} differs from the undisturbed run")
    wrong += [f"the dashboard lets strangers in: {route}" for route in strangers["let_in"]]
    for what, wanted in (
        ("with_token", 200),
        ("metadata_without_token", 401),
        ("token_file", f"600 {USER}"),
        ("token_in_environments", 0),
        ("gcs_without_token", "refused"),
        ("client_without_token", "refused"),
    ):
        if strangers[what] != wanted:
            wrong.append(f"{what} is {strangers[what]!r}, not {wanted!r}")
    if strangers["routes"] < 40:
        wrong.append(f"only {strangers['routes']} routes of the dashboard were found")
    listeners = found["listeners"]
    if listeners["talkative"] or {22, 8265} & set(listeners["reachable"]):
        wrong.append(f"something listens where it should not: {listeners}")
    if found["still_running"]:
        wrong.append(f"{found['still_running']} idle workers still run")
    return Outcome(
        ok=not wrong,
        measured=(
            f"head up in {found['head_up_seconds']:.0f} s, two workers at work in "
            f"{found['count_accesses']['two_at_work_seconds']:.0f} s, 2 machines lost (one after a notice, at which training saved) and replaced, "
            f"{found['count_accesses']['differences'] + found['pretrain']['differences']} differences, idle workers gone in "
            f"{found['idle_gone_seconds']:.0f} s, {strangers['routes']} routes refused, {len(wrong)} things wrong"
        ),
        details={"wrong": wrong, **found},
    )


ROWS = [
    Row(
        name="fake_ec2",
        bar="the rendered cluster boots; count and pretraining each lose a machine and end as undisturbed; strangers get 401",
        run=_run,
        seconds=450,
    )
]
