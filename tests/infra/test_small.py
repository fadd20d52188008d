"""Quick tests of the parts of `make infra-test`; those that need Terraform are skipped where it is
missing."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.infra import frame
from tests.infra.__main__ import main
from tests.infra.contract import PROMISES, endpoints_lead_home, no_way_in_or_out, secrets_stay_secret
from tests.infra.fake_ec2.metadata import TOKEN_HEADER, TTL_HEADER, Identity, MetadataServer
from tests.infra.fake_ec2.region import Applied, Region
from tests.infra.frame import Outcome, Row, find_rows, measure
from tests.infra.offline import INFRA, Unavailable, copy_infra, terraform
from tests.infra.provider.values import ARNS, IDS, NotFound, computed, read_data
from tests.infra.rows import checkov
from tests.infra.rows.assertions import count_assertions, roots
from tests.infra.rows.mutants import MUTANTS, MUTANTS_AT_LEAST, Mutant, Unchanged
from tests.infra.stack import SECRET, Resource, Stack

NAMES = {"assertions", "checkov", "fake_ec2", "iam", "mutants_caught", "second_plan_empty"}


# The frame
# ------------------------------------------------------------------------------------------


def row_of(outcome: Outcome | Exception, name: str = "iam") -> Row:
    def run() -> Outcome:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return Row(name=name, bar="all of them", run=run, seconds=1)


def test_every_row_exists_and_fits_its_time() -> None:
    rows = find_rows()
    assert {row.name for row in rows} == NAMES
    assert sum(row.seconds for row in rows) <= 15 * 60


def test_a_row_is_ok_or_missed_or_skipped_or_at_fault() -> None:
    good = measure(row_of(Outcome(ok=True, measured="3 of 3")))
    assert good.ok and not good.missed and good.skipped is None and good.measured == "3 of 3"
    assert measure(row_of(Outcome(ok=False, measured="2 of 3"))).missed
    skipped = measure(row_of(Unavailable("there is no terraform")))
    assert not skipped.ok and not skipped.missed and skipped.skipped == "there is no terraform"
    failed = measure(row_of(ValueError("oh")))
    assert failed.missed and "ValueError: oh" in str(failed.error)


@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome(ok=True, measured="3"), 0), (Outcome(ok=False, measured="2"), 1)]
)
def test_the_command_writes_what_was_measured(
    outcome: Outcome, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row_of(outcome), row_of(Unavailable("no npm"), "checkov")]
    assert main(rows, ["--output", str(tmp_path)]) == status
    written = json.loads((tmp_path / "infra.json").read_text())["rows"]
    assert [(row["what"], row["ok"], row["skipped"]) for row in written] == [
        ("iam", outcome.ok, None),
        ("checkov", False, "no npm"),
    ]
    assert {"bar", "measured", "seconds"} <= set(written[0])
    assert ("missed their bar: iam" in capsys.readouterr().out) is bool(status)


def test_a_misspelt_row_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(find_rows(), ["--only", "mutants"])
    assert "did you mean ['mutants_caught']" in capsys.readouterr().err


def test_rows_are_found_by_file() -> None:
    assert [row.seconds for row in frame.find_rows()] == sorted(row.seconds for row in frame.find_rows())


@pytest.mark.parametrize(("rows", "tests"), [(0, 0), (1, 0), (0, 1)])
def test_the_make_target_runs_both_parts_and_fails_with_either(rows: int, tests: int, tmp_path: Path) -> None:
    for name in (
        "pyproject.toml",
        ".ci/constraints.txt",
        "tests/infra/requirements.txt",
        ".venv/installed",
        ".venv-infra/installed",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$2" >> {tmp_path}/ran\n[ "$2" = pytest ] && exit {tests}\nexit {rows}\n')
    python.chmod(0o755)
    make = ["make", "--no-print-directory", "-f", str(INFRA.parent / "Makefile"), "infra-test"]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode != 0) is bool(rows or tests)
    assert (tmp_path / "ran").read_text().split() == ["tests.infra", "pytest"]


# What is written down
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_changes_its_file(mutant: Mutant) -> None:
    text = (INFRA / mutant.file).read_text()
    mutated = mutant.apply_to(text)
    assert mutated != text and mutant.new in mutated


def test_there_are_enough_mutants_each_once() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= MUTANTS_AT_LEAST
    assert len({(m.file, m.old, m.new, m.after) for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize(
    ("old", "after", "text", "message"),
    [
        ("a = 1", "", "b = 1", "0 times"),
        ("a = 1", "", "a = 1\na = 1", "2 times"),
        ("a = 1", "head", "worker\na = 1", "has no 'head'"),
        ("a = 1", "head", "a = 1\nhead", "0 times"),
        ("a = 2", "", "a = 2", "the old one"),
    ],
)
def test_a_mutant_that_would_change_nothing_is_an_error(old: str, after: str, text: str, message: str) -> None:
    with pytest.raises(Unchanged, match=message):
        Mutant("m", "f", old, "a = 2", after=after).apply_to(text)


def test_a_mutant_ignores_differences_in_blanks() -> None:
    assert (
        Mutant("m", "f", "a = 1", "a = 2", after="head {").apply_to("a = 1\nhead  {\na    = 1")
        == "a = 1\nhead  {\na = 2"
    )


def test_every_waiver_has_a_reason_and_a_limited_scope() -> None:
    waivers = checkov.waivers()
    assert len({(waiver.check, waiver.resource) for waiver in waivers}) == len(waivers) > 0
    for waiver in waivers:
        assert len(waiver.reason.split()) >= checkov.REASON_WORDS, waiver
        assert not waiver.covers(checkov.Finding(waiver.check, "aws_something_else.mutant", "main.tf", "")), waiver


@pytest.mark.skipif(not (INFRA.parent / ".git").exists(), reason="not a checkout")
@pytest.mark.parametrize(("name", "ignored"), [("mine.tfvars", True), ("backend.hcl", True), ("example.tfvars", False)])
def test_settings_of_one_account_stay_out_of_git(name: str, ignored: bool) -> None:
    asked = subprocess.run(["git", "check-ignore", "--no-index", "--quiet", f"envs/dev/{name}"], cwd=INFRA)
    assert asked.returncode == (0 if ignored else 1)


def test_the_terraform_tests_cover_the_required_properties() -> None:
    assert sum(count_assertions(root) for root in roots(INFRA)) >= 60


# The stub provider
# ------------------------------------------------------------------------------------------


def test_ids_and_arns_are_in_aws_form() -> None:
    known: dict[str, Any] = {"name": "worker"}
    assert computed("aws_iam_role", "arn", "string", known, "eu-west-1") == "arn:aws:iam::123456789012:role/worker"
    assert computed("aws_s3_bucket", "arn", "string", {"bucket": "data"}, "eu-west-1") == "arn:aws:s3:::data"
    key: dict[str, Any] = {}
    arn = computed("aws_kms_key", "arn", "string", key, "eu-west-1")
    assert arn == f"arn:aws:kms:eu-west-1:123456789012:key/{key['id']}"  # the id made on the way is kept
    assert len(key["id"]) == 36
    assert computed("aws_subnet", "id", "string", {}, "eu-west-1").startswith("subnet-")
    assert computed("aws_subnet", "tags_all", ["map", "string"], {}, "eu-west-1") == {}
    assert all("{" not in computed(kind, "arn", "string", {}, "eu-west-1") for kind in {*ARNS, *IDS})


def test_a_policy_document_equals_the_real_providers() -> None:
    statement = {
        "sid": "Read",
        "effect": "Deny",
        "actions": ["s3:GetObject"],
        "resources": ["arn:aws:s3:::data/&{aws:username}/*", "arn:aws:s3:::data"],
        "principals": [{"type": "AWS", "identifiers": ["a"]}, {"type": "AWS", "identifiers": ["b"]}],
        "condition": [{"test": "Bool", "variable": "aws:SecureTransport", "values": ["false"]}],
    }
    made = json.loads(read_data("aws_iam_policy_document", {"statement": [statement]}, "us-east-1")["json"])
    assert made["Statement"] == [
        {
            "Sid": "Read",
            "Effect": "Deny",
            "Action": "s3:GetObject",
            "Resource": ["arn:aws:s3:::data/${aws:username}/*", "arn:aws:s3:::data"],
            "Principal": {"AWS": ["b", "a"]},
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    ]
    override = {"override_policy_documents": [json.dumps(made)], "statement": [{"sid": "Read", "actions": ["*"]}]}
    merged = json.loads(read_data("aws_iam_policy_document", override, "us-east-1")["json"])
    assert merged["Statement"] == made["Statement"]
    with pytest.raises(NotFound, match="duplicate Sid"):
        read_data("aws_iam_policy_document", {"statement": [{"sid": "A"}, {"sid": "A"}]}, "us-east-1")


def test_instance_types_and_zones_match_ec2(monkeypatch: pytest.MonkeyPatch) -> None:
    import moto

    monkeypatch.setenv("MEMLM_MOTO", str(Path(moto.__file__).parent))
    p4 = read_data("aws_ec2_instance_type", {"instance_type": "p4d.24xlarge"}, "us-east-1")
    assert (p4["default_vcpus"], p4["efa_maximum_interfaces"], p4["gpus"][0]["count"]) == (96, 4, 8)
    with pytest.raises(NotFound, match="p4d.24xlarge.*af-south-1"):
        read_data("aws_ec2_instance_type", {"instance_type": "p4d.24xlarge"}, "af-south-1")
    zones = read_data("aws_availability_zones", {"exclude_names": ["eu-central-1a"]}, "eu-central-1")
    assert zones["names"] == ["eu-central-1b", "eu-central-1c"]
    asked = {"location_type": "availability-zone", "filter": [{"name": "instance-type", "values": ["m7i.large"]}]}
    offered = read_data("aws_ec2_instance_type_offerings", asked, "eu-central-1")
    assert offered["locations"] == ["eu-central-1a", "eu-central-1b", "eu-central-1c"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """infra/ with its provider, ready to be validated."""
    try:
        run = terraform()
    except Unavailable as reason:
        pytest.skip(str(reason))
    copied = copy_infra(tmp_path_factory.mktemp("infra"))
    done = run(copied / "envs" / "dev", "init", "-no-color", "-backend=false")
    assert done.returncode == 0, done.stdout + done.stderr
    return copied / "envs" / "dev"


def test_an_environment_is_valid_and_a_misspelt_argument_is_not(root: Path) -> None:
    assert terraform()(root, "validate", "-no-color").returncode == 0
    (root / "mutant.tf").write_text('resource "aws_s3_bucket" "mutant" {\n  bukcet = "a"\n}\n')
    done = terraform()(root, "validate", "-no-color")
    (root / "mutant.tf").unlink()
    assert done.returncode == 1
    assert 'An argument named "bukcet" is not expected here. Did you mean "bucket"?' in " ".join(done.stderr.split())


# Promises
# ------------------------------------------------------------------------------------------


def stack_of(folder: Path, *resources: tuple[str, dict[str, Any]], **outputs: Any) -> Stack:
    made = [Resource(f"{kind}.this", kind, values) for kind, values in resources]
    (folder / "terraform.tfstate").write_text(json.dumps([values for _, values in resources]))
    return Stack("dev", folder, tuple(made), outputs)


def test_broken_promises_name_the_cause(tmp_path: Path) -> None:
    rule = {"from_port": 0, "to_port": 65535, "cidr_ipv4": "0.0.0.0/0", "cidr_ipv6": None}
    found = list(no_way_in_or_out(stack_of(tmp_path, ("aws_vpc_security_group_ingress_rule", rule))))
    assert any("is open to everybody" in what for what in found) and any("opens SSH" in what for what in found)
    open_to_all = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "*"}
    endpoint = {"service_name": "com.amazonaws.us-east-1.s3", "policy": json.dumps({"Statement": [open_to_all]})}
    assert len(list(endpoints_lead_home(stack_of(tmp_path, ("aws_vpc_endpoint", endpoint))))) == 2
    held = stack_of(
        tmp_path, ("aws_secretsmanager_secret_version", {"secret_string": f"{SECRET}-main"}), message=SECRET
    )
    assert list(secrets_stay_secret(held)) == ["a secret is in the state", "a secret is in an output"]
    assert len({promise.__name__ for promise in PROMISES}) == len(PROMISES)


# The fake EC2
# ------------------------------------------------------------------------------------------


@pytest.fixture
def metadata() -> Iterator[tuple[str, Identity]]:
    identity = Identity(
        instance_id="i-1",
        address="127.0.0.1",
        zone="us-east-1a",
        role="memlm-worker",
        hop_limit=1,
        tags={"ray-head-address": "10.77.0.4"},
    )
    with MetadataServer(
        lambda address: identity if address == identity.address else None, address="127.0.0.1", port=0
    ) as server:
        yield f"http://127.0.0.1:{server.server_port}/latest", identity


def ask(method: str, url: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, method=method, headers={n.replace("_", "-"): v for n, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_metadata_requires_a_token(metadata: tuple[str, Identity]) -> None:
    url, identity = metadata
    token, wanted = TOKEN_HEADER.replace("-", "_"), TTL_HEADER.replace("-", "_")
    assert ask("GET", f"{url}/meta-data/instance-id")[0] == 401  # version 1
    assert ask("PUT", f"{url}/api/token")[0] == 400
    assert ask("PUT", f"{url}/api/token", **{wanted: "21601"})[0] == 400
    assert ask("PUT", f"{url}/api/token", **{wanted: "60", "X_Forwarded_For": "10.0.0.1"})[0] == 403
    status, given = ask("PUT", f"{url}/api/token", **{wanted: "60"})
    assert status == 200
    assert ask("GET", f"{url}/meta-data/instance-id", **{token: given}) == (200, "i-1")
    assert ask("GET", f"{url}/meta-data/tags/instance/ray-head-address", **{token: given}) == (200, "10.77.0.4")
    assert ask("GET", f"{url}/meta-data/iam/security-credentials/", **{token: given}) == (200, "memlm-worker")
    credentials = ask("GET", f"{url}/meta-data/iam/security-credentials/memlm-worker", **{token: given})[1]
    assert json.loads(credentials)["Code"] == "Success"
    assert ask("GET", f"{url}/meta-data/spot/instance-action", **{token: given})[0] == 404
    identity.action = "terminate"
    assert ask("GET", f"{url}/meta-data/spot/instance-action", **{token: given}) == (200, "terminate")
    identity.tags = None
    assert ask("GET", f"{url}/meta-data/tags/instance/ray-head-address", **{token: given})[0] == 404
    identity.tokens[given] = 0
    assert ask("GET", f"{url}/meta-data/instance-id", **{token: given})[0] == 401
    identity.address = "10.77.0.9"  # another machine's
    assert ask("GET", f"{url}/meta-data/instance-id", **{token: given})[0] == 404


def test_dangling_ids_are_found() -> None:
    region = Region("http://127.0.0.1:1", Applied({}))
    region.names["subnet-0123456789abcdef0"] = "subnet-moto0"
    assert region._named("in subnet-0123456789abcdef0") == "in subnet-moto0"
    with pytest.raises(AssertionError, match="sg-0123456789abcdef0"):
        region._named("in sg-0123456789abcdef0")
