"""The commands that submit work to a cluster, and the job that gates pretraining."""

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from memlm import storage
from tests.jobs.running import BIN, ROOT, Ended, run_command
from tests.jobs.test_submit import Head, head  # noqa: F401  a fixture

JOBS = ROOT / "infra/jobs"
CLUSTER = {
    "RAY_ADDRESS": "http://127.0.0.1:8265",
    "RAY_AUTH_TOKEN": "x" * 64,
    "MEMLM_STORAGE": "s3://runs/memlm",
    "MEMLM_TRACKING": "https://mlflow.test",
    "MEMLM_USE_GPU": "True",
}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"infra_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


submit, smoke = load(JOBS / "submit.py"), load(JOBS / "nccl_smoke.py")


@pytest.mark.parametrize("pipeline", sorted(path.stem for path in (ROOT / "pipelines").glob("*.py")))
def test_the_call_of_every_pipeline(pipeline):
    command = submit.entrypoint(pipeline, ["paper_1b", "--run-name", "big"], CLUSTER)
    called = submit.submit_command(submit.submission_id(command, "code"), command)
    assert shlex.join(called).startswith(f"ray job submit --submission-id {pipeline}-big-")
    assert shlex.join(called).endswith(
        f" --working-dir . --runtime-env infra/jobs/runtime_env.yaml -- python pipelines/{pipeline}.py paper_1b "
        "--storage s3://runs/memlm --tracking https://mlflow.test --cluster.use-gpu True --run-name big"
    )


def test_the_same_work_has_the_same_id_and_other_work_another():
    def identity(*arguments: str, code: str = "code") -> str:
        return submit.submission_id(submit.entrypoint("pretrain", list(arguments), CLUSTER), code)

    first = identity("paper_1b", "--run-name", "big")
    assert identity("paper_1b", "--run-name", "big") == first
    others = {
        identity("paper_1b", "--run-name", "big", "--pretraining.seed", "1"),
        identity("laptop", "--run-name", "big"),
        identity("paper_1b", "--run-name", "big", code="changed"),
    }
    assert len(others | {first}) == 4


def test_the_upload_determines_the_id(tmp_path, monkeypatch):
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(submit, "ROOT", tmp_path)
    digests = [submit.code_digest()]
    (tmp_path / "new.py").write_text("1")
    assert submit.code_digest() == digests[0]  # git does not track it, so it is not uploaded
    subprocess.run(["git", "add", "new.py"], cwd=tmp_path, check=True)
    digests.append(submit.code_digest())
    (tmp_path / "new.py").write_text("2")
    digests.append(submit.code_digest())
    assert len(set(digests)) == 3 and submit.code_digest() == digests[-1]


@pytest.mark.parametrize(
    ("pipeline", "arguments", "workers"),
    [
        ("pretrain", ["paper_1b", "--cluster.num-workers", "16"], 16),
        ("pretrain", ["paper_1b", "--cluster.num-workers=16"], 16),
        ("pretrain", ["paper_1b", "--cluster.num_workers", "16"], 16),
        ("pretrain", ["paper_64m"], 32),  # as many as its recipe says
        ("pareto_sweep", ["paper_1b", "--cluster.num-workers", "16"], 16),  # pretrains what it lacks
        ("pretrain", ["paper_1b"], 0),  # one worker has nobody to talk to
        ("pretrain", ["paper_1b", "--cluster.num-workers", "16", "--cluster.use-gpu", "False"], 0),
        ("pretrain", ["paper_1b", "--cluster.num-workers", "16", "--dry-run"], 0),
        ("count_accesses", ["paper_1b", "--cluster.num-workers", "16"], 0),
    ],
)
def test_pretraining_on_several_gpus_is_gated(pipeline, arguments, workers):
    command = submit.smoke_command(submit.entrypoint(pipeline, arguments, CLUSTER))
    gate = ["python", "infra/jobs/nccl_smoke.py", "--num-workers", str(workers), "--storage", "s3://runs/memlm"]
    assert command == (gate if workers else [])


@pytest.mark.parametrize("settled", [False, True])
def test_running_or_finished_work_is_not_gated_again(settled, monkeypatch):
    called: list[str] = []
    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(submit, "is_settled", lambda identity: settled)
    monkeypatch.setattr(submit, "run", lambda identity, command, *, again: called.append(command[1]) or 0)
    assert submit.main(["pretrain", "paper_1b", "--cluster.num-workers", "16"]) == 0
    assert called == ["infra/jobs/nccl_smoke.py"] * (not settled) + ["pipelines/pretrain.py"]


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["pretrian"], CLUSTER, "error: unknown pipeline 'pretrian'; known: analyze_slots"),
        (["pretrain", "paper_1bb"], CLUSTER, "error: unknown recipe 'paper_1bb'; did you mean 'paper_1b'?"),
        ([], CLUSTER, "error: which pipeline? Known: analyze_slots"),
        (["pretrain"], {}, "error: RAY_ADDRESS (the dashboard's address), MEMLM_STORAGE (the address of the runs)"),
        (["pretrain"], {**CLUSTER, "RAY_AUTH_TOKEN": ""}, "error: RAY_AUTH_TOKEN (the cluster's token) not set"),
    ],
)
def test_a_typo_is_reported_before_any_work(arguments, environment, said, monkeypatch, capsys):
    for name in (*CLUSTER, "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        sys.exit(submit.main(arguments))
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(said)


def test_nothing_is_installed_at_run_time():
    declared = yaml.safe_load((JOBS / "runtime_env.yaml").read_text())
    assert set(declared) == {"env_vars"}


def test_the_kubernetes_job_is_the_same_job():
    job = yaml.safe_load((JOBS / "rayjob.yaml").read_text())["spec"]
    environment = {**CLUSTER, "MEMLM_STORAGE": "s3://BUCKET/memlm", "MEMLM_TRACKING": "https://MLFLOW"}
    options = ["paper_1b", "--cluster.num-workers", "64", "--pretraining.micro-batch-blocks", "4"]
    command = submit.entrypoint("pretrain", options, environment)
    assert shlex.split(job["entrypoint"]) == command
    assert submit.smoke_command(command)  # parsed, so no setting that the recipe refuses
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cluster"]
    assert f"ray[default,data,train,tune]=={job['rayClusterSpec']['rayVersion']}" in pins
    assert yaml.safe_load(job["runtimeEnvYAML"]) == yaml.safe_load((JOBS / "runtime_env.yaml").read_text())
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def documented_calls() -> list[list[str]]:
    text = (ROOT / "docs" / "aws.md").read_text().replace("\\\n", " ")
    found = re.findall(r"python infra/jobs/submit\.py ([a-z][^\n`]*)", text)
    return [shlex.split(each, comments=True) for each in found]


def test_documented_calls_are_calls_of_pipelines():
    calls = documented_calls()
    gated = [call[0] for call in calls if submit.smoke_command(submit.entrypoint(call[0], call[1:], CLUSTER))]
    assert [call[0] for call in calls] == ["pareto_sweep", "prepare_corpus", "pretrain"] and gated == ["pretrain"]


# --- The gate ---


def measured(gigabytes_per_second: float, num_wrong: int = 0):
    return smoke.Measured(bytes=1 << 30, seconds=1.0, gigabytes_per_second=gigabytes_per_second, num_wrong=num_wrong)


@pytest.mark.parametrize(
    ("each", "code", "said"),
    [
        ([measured(10), measured(240)], 0, "ok: sums are right, and 240.000 GB/s is at least 200"),
        ([measured(240), measured(10)], 1, "error: the bus bandwidth is 10.000 GB/s, below the 200 GB/s"),
        ([measured(10, num_wrong=1), measured(240)], 1, "error: 1 elements of the sums are wrong"),
    ],
)
def test_the_verdict(each, code, said, capsys):
    assert smoke.verdict(each, 200.0) == code
    declared = capsys.readouterr()
    assert (declared.out + declared.err).startswith(said)


def test_bandwidth_is_compared_with_the_hardware():
    assert smoke.bus_bandwidth(1000, 1.0, 2) == 1000.0  # each of two sends half of it twice
    assert smoke.bus_bandwidth(1000, 1.0, 4) == 1500.0
    assert smoke.least_bandwidth("NVIDIA H100 80GB HBM3", 8) == 225.0  # half of NVLink's 450
    assert smoke.least_bandwidth("NVIDIA H100 80GB HBM3", 16) == 200.0  # half of a node's 3,200 Gb/s
    assert smoke.least_bandwidth("NVIDIA A100-SXM4-40GB", 16) == 25.0  # half of a node's 400 Gb/s
    assert smoke.least_bandwidth("NVIDIA L4", 16) == smoke.UNKNOWN_LEAST


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num-workers", "1"], "one worker has nobody to add up with"),
        (["--num-workers", "2", "--backend", "gloo"], "--min-gigabytes-per-second is missing"),
    ],
)
def test_the_gate_refuses_unknown_hardware(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        smoke.main(arguments)
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_rays_own_files_of_the_gate_go_through_our_storage():
    kept = smoke.run_config("s3://runs/memlm")
    assert kept.storage_path == "/"  # else pyarrow looks for the bucket's region by itself, which the network denies
    assert kept.storage_filesystem.handler.uri == "s3://runs/memlm/nccl-smoke/ray"  # where roles may delete
    assert kept.failure_config.controller_failure_limit >= 0  # no trying for ever
    assert smoke.run_config("").storage_filesystem is None


# --- On a cluster with a token ---


def submitted(head: Head, *arguments: str) -> Ended:  # noqa: F811
    return run_command(
        sys.executable,
        "infra/jobs/submit.py",
        *arguments,
        RAY_ADDRESS=head.address,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(head.token_path),
        MEMLM_STORAGE=str(head.token_path.parent / "runs"),
        MEMLM_TRACKING="off",
        PATH=f"{BIN}:/usr/bin:/bin",
    )


@pytest.mark.ray
@pytest.mark.infra
def test_work_is_done_once_and_continued_after_a_failure(head):  # noqa: F811
    work = ["prepare_corpus", "smoke", "--run-name", "jobs"]
    first = submitted(head, *work)
    assert first.code == 0, f"{first.out}\n{first.err}"
    assert storage.has_artifact(str(head.token_path.parent / "runs/jobs/corpus"))
    again = submitted(head, *work)
    assert again.code == 0 and "is done; its log: ray job logs prepare_corpus-jobs-" in again.out
    assert "succeeded" not in again.out  # nothing was submitted

    failing = ["count_accesses", "smoke", "--run-name", "jobs"]  # there is no checkpoint yet
    assert submitted(head, *failing).code != 0
    twice = submitted(head, *failing)
    assert twice.code != 0 and "was failed; resuming it" in twice.out


@pytest.mark.ray
@pytest.mark.infra
def test_the_gate_checks_sums_and_bandwidth_on_two_workers(head, tmp_path):  # noqa: F811
    options = ["--num-workers", "2", "--backend", "gloo", "--storage", str(tmp_path)]
    ended = head.submit("infra/jobs/nccl_smoke.py", *options, "--min-gigabytes-per-second", "1e9")
    said = ended.out + ended.err
    assert ended.code != 0, said
    sums = {
        line for line in said.splitlines() if "GB/s  0 wrong" in line
    }  # of a failed job Ray shows the end once more
    assert not list((tmp_path / "nccl-smoke" / "ray").glob("*"))
    assert "2 x CPU on 1 node(s), gloo" in said and len(sums) == 3
    assert "below the 1e+09 GB/s asked for" in said
    assert not re.search("^Traceback", said, re.MULTILINE)  # of its own; on a busy machine Ray's controller has some


@pytest.mark.ray
@pytest.mark.infra
def test_the_gate_names_missing_nodes_and_ends(head):  # noqa: F811
    options = ["--num-workers", "64", "--backend", "gloo", "--min-gigabytes-per-second", "0.01"]
    ended = head.submit("infra/jobs/nccl_smoke.py", *options)
    said = ended.out + ended.err
    assert ended.code != 0 and "error: --num-workers = 64 needs 64 x (1 CPU), and the cluster has room for 4" in said, (
        said
    )
    assert "Traceback" not in said
