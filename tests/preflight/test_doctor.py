"""Each check when it passes and when it fails, and refusals of pipelines before they begin."""

import importlib.metadata
import json
import os
import time
from dataclasses import replace

import pytest
from packaging.requirements import Requirement

from memlm import storage
from memlm.cli import parse, run_doctor
from memlm.config import IN_JOB
from memlm.jobs import prepare_corpus
from memlm.jobs.on_ray import checks
from memlm.jobs.on_ray.checks import (
    Check,
    compilers,
    packages,
    probe_storage,
    probe_tracking,
    python,
    ray_authentication,
    require,
    require_ready,
)
from memlm.preflight import doctor
from memlm.preflight.cost.machines import MACHINES
from memlm.preflight.cost.stages import Assumptions, make_plan
from memlm.run import RunError
from tests.jobs.running import artifacts_in, refused, smoke
from tests.support.faults import client_environment, faulty_s3, make_bucket

GONE = 10**15


@pytest.fixture
def pinned(monkeypatch):
    """Pins other than the checkout's."""

    def pin(python=">=3.11", packages=(), cluster=()):
        found = checks._Pins(
            python=python, packages=tuple(map(Requirement, packages)), cluster=tuple(map(Requirement, cluster))
        )
        monkeypatch.setattr(checks, "_pinned", lambda: found)

    checks._versions_once.cache_clear()
    yield pin
    checks._versions_once.cache_clear()


def test_this_environment_matches_its_pins():
    assert python().state == "ok"
    assert all(check.state == "ok" for check in packages()) and "with supported versions" in packages()[0].found


@pytest.mark.parametrize(
    "requirement, state",
    [
        ("numpy", None),
        ("no-such-package==1.0", "fail"),
        ("psutil==999.0", "fail"),
        ("psutil=={near}.99999", "warn"),
        ("psutil=={here}", None),
    ],
)
def test_a_package_at_another_version_than_its_pin(requirement, state):
    here = importlib.metadata.version("psutil")
    found = checks._package(Requirement(requirement.format(here=here, near=".".join(here.split(".")[:2]))))
    assert (found and found.state) == state
    if found:
        assert found.remedy.startswith("pip install '")


def test_a_missing_package_stops_a_pipeline_before_it_begins(pinned, tmp_path, capfd):
    pinned(packages=["no-such-package==1.0"])
    line = refused(capfd, prepare_corpus.run, smoke(tmp_path))
    assert "package no-such-package: is not installed. pip install 'no-such-package==1.0'" in line
    assert artifacts_in(tmp_path) == set()


def test_a_missing_package_of_an_extra_names_the_extra(pinned):
    pinned(packages=["psutil"], cluster=["no-such-package==1.0", "psutil"])
    (check,) = packages()
    assert (check.state, check.found, check.remedy) == ("fail", "is not installed", "pip install 'memlm[cluster]'")


def test_another_python_stops_a_pipeline_before_it_begins(pinned, tmp_path):
    pinned(python=">=4")
    with pytest.raises(RunError, match="python: 3.* and memlm needs >=4. Make the environment with Python >=4"):
        require_ready(smoke(tmp_path))


def test_a_warning_stops_nothing():
    require([Check(name="a", found="b"), Check(name="a", state="warn", found="b", remedy="c")])
    with pytest.raises(RunError, match="a: b. c"):
        require([Check(name="a", state="fail", found="b", remedy="c")])


@pytest.fixture
def no_ray_settings(monkeypatch, tmp_path):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_authentication_of_ray(no_ray_settings, tmp_path):
    assert ray_authentication().state == "ok"
    no_ray_settings.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert (ray_authentication().state, "RAY_AUTH_MODE=token" in ray_authentication().remedy) == ("warn", True)
    no_ray_settings.setenv("RAY_AUTH_MODE", "token")
    assert (ray_authentication().state, str(tmp_path) in ray_authentication().found) == ("fail", True)
    (tmp_path / "token").write_text("very secret")
    no_ray_settings.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    os.chmod(tmp_path / "token", 0o644)
    assert (ray_authentication().state, "chmod 600" in ray_authentication().remedy) == ("warn", True)
    os.chmod(tmp_path / "token", 0o600)
    assert ray_authentication().state == "ok"
    no_ray_settings.setenv("RAY_AUTH_TOKEN", "very secret")
    assert ray_authentication().state == "ok" and "secret" not in str(ray_authentication())


def test_a_storage_is_left_unchanged(tmp_path):
    (tmp_path / "kept").write_text("x")
    assert probe_storage(f"{tmp_path}/deep/er").state == "ok"
    assert probe_storage(str(tmp_path)).state == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    found = probe_storage(f"{tmp_path}/kept/below")
    assert found.state == "fail" and "Choose a directory that you may write to" in found.remedy


@pytest.fixture
def proxy(monkeypatch):
    """Address of an S3 server, with the cached checks of the process cleared."""
    with faulty_s3() as proxy:
        for name, value in client_environment(proxy).items():
            monkeypatch.setenv(name, value)
        checks._storage_once.cache_clear()
        yield proxy
        checks._storage_once.cache_clear()


def test_every_operation_of_a_store_is_tried(proxy):
    uri = make_bucket(proxy)
    found = probe_storage(f"{uri}/runs")
    assert found.state == "ok" and f"{uri}/runs: written, read, listed and deleted" in found.found
    assert "conditional writes hold" in found.found and storage.list_names(uri) == []


def test_a_store_without_conditional_writes_stops_a_pipeline(proxy, capfd):
    uri = make_bucket(proxy)
    proxy.drops = ("If-None-Match", "If-Match")  # like stores without conditional writes
    for _ in range(2):
        line = refused(capfd, prepare_corpus.run, smoke(f"{uri}/runs", "--tracking", "off"))
        assert f"storage: {uri}/runs: this store cannot keep writers apart: 16 of 16 writers" in line
        assert "Use one that honours conditional writes" in line
        asked, proxy.requests = proxy.requests, 0
    assert asked == 0 and storage.list_names(uri) == []


def test_a_store_that_does_not_answer_stops_a_pipeline(proxy, capfd):
    line = refused(capfd, prepare_corpus.run, smoke("s3://nowhere/runs", "--tracking", "off"))
    assert "storage: s3://nowhere/runs/probe-" in line and "bucket nowhere does not exist" in line
    assert "Create it, or correct the name" in line


def test_a_shared_folder_is_tried(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    config = smoke(tmp_path / "file" / "runs")
    require_ready(config)
    monkeypatch.setenv(IN_JOB, "{}")
    with pytest.raises(RunError, match="Choose a directory that you may write to"):
        require_ready(config)


def test_tracking(tmp_path):
    assert probe_tracking(smoke(tmp_path, "--tracking", "off")).found == "off"
    assert "will be made" in probe_tracking(smoke(tmp_path)).found and not list(tmp_path.iterdir())
    assert probe_tracking(smoke(tmp_path, "--tracking", "mlruns")).state == "fail"
    assert "give --tracking a server's" in probe_tracking(smoke("s3://bucket/runs")).found


def test_a_missing_compiler_is_reported_with_its_cost(monkeypatch, tmp_path):
    assert compilers().state == "ok"
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    assert compilers().state == "warn" and "no-such-compiler not found" in compilers().found
    assert "plain torch, same results, slower" in compilers().found


def plan_of(config):
    return make_plan(config, MACHINES["cpu"], config.cluster.num_workers, Assumptions(), {})


def test_memory_and_disk_are_compared_with_the_plan(tmp_path, monkeypatch):
    config = smoke(tmp_path)
    assert doctor.memory(config, plan_of(config)).state == "ok"
    assert doctor.disk(config, plan_of(config)).state == "ok"
    large = parse("", ["paper_1b", "--storage", str(tmp_path), "--model.memory.num-half-keys", "8192"])
    assert doctor.memory(large, plan_of(large)).state == "fail"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("", (), {"free": GONE})())
    assert doctor.disk(large, plan_of(large)).state == "ok"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("", (), {"free": 10**9})())
    found = doctor.disk(large, plan_of(large))
    assert found.state == "fail" and "has 1 GB free" in found.found and "--storage" in found.remedy
    assert doctor.disk(replace(large, storage="s3://bucket/runs"), plan_of(large)).state == "warn"


def test_missing_gpus(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    assert doctor.gpus(smoke(tmp_path)).state == "ok"
    assert doctor.gpus(smoke(tmp_path, "--cluster.use-gpu", "True")).state == "fail"
    (found,) = doctor.resources(smoke(tmp_path, "--cluster.use-gpu", "True"))
    assert found.state == "fail" and "needs 1 x (1 CPU and 1 GPU), and the cluster has room for 0" in found.found


def test_the_command_prints_a_line_per_check_and_fails_if_one_fails(tmp_path, capsys, no_ray_settings):
    run_doctor(["smoke", "--storage", str(tmp_path / "runs"), "--tracking", "off"])
    lines = capsys.readouterr().out.splitlines()
    named = [line.split(":")[0].split(None, 1) for line in lines]
    assert {state for state, _ in named} <= {"ok", "warn"}
    wanted = [
        "python",
        "packages",
        "ray authentication",
        "credentials",
        "compilers",
        "memory",
        "disk",
        "storage",
        "tracking",
        "gpus",
        "resources",
    ]
    assert [name for _, name in named] == wanted
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_json_for_programs(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SystemExit) as stopped:
        run_doctor(["smoke", "--json", "--storage", str(tmp_path / "file" / "runs"), "--tracking", "off"])
    found = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert stopped.value.code == 1
    assert (found["storage"]["state"], bool(found["storage"]["remedy"])) == ("fail", True)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9", "HTTPS://u:swordfish@127.0.0.1:9", "127.0.0.1:9", "nonsense"]
)
def test_a_cluster_that_does_not_answer_is_reported_quickly_on_one_line(no_ray_settings, tmp_path, address):
    no_ray_settings.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    (found,) = doctor.resources(smoke(tmp_path))
    assert time.monotonic() - began < 30 and "swordfish" not in str(found)
    assert found.state == "fail" and "the cluster does not answer" in found.found and "\n" not in str(found)
    assert "Module" not in found.found and "RAY_AUTH_MODE=token" in found.remedy


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["laptp"], "'laptop'"),
        (["--gpus", "x"], "invalid int value"),
        (["smoke", "--gpus", "3"], "pretraining.batch_blocks is 16"),
    ],
)
def test_a_typo_is_refused_with_the_nearest_name(capsys, arguments, said):
    with pytest.raises(SystemExit) as stopped:
        run_doctor(arguments)
    assert stopped.value.code == 2 and said in capsys.readouterr().err
