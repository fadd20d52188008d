"""Requests of pipelines to S3, each of which a worker's role must allow; no list of keys is kept by
hand."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.infra.offline import Unavailable
from tests.infra.rows.least_privilege import Access, clusters
from tests.infra.stack import applied
from tests.jobs.running import run_pipeline
from tests.support.faults import client_environment, faulty_s3, plain_client

pytestmark = pytest.mark.infra
SHORT = ("--tracking", "off", "--pretraining.num-steps", "4", "--pretraining.checkpoint-every", "2")


def asked_of_s3(line: str) -> tuple[str, str, dict[str, str]]:
    """The action, the resource's ARN and what a policy may look at, of "METHOD
    /bucket/key?query"."""
    method, _, address = line.partition(" ")
    parts = urlsplit(address)
    query = parse_qs(parts.query, keep_blank_values=True)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    if not key:
        assert method == "GET" and {"list-type", "uploads"} & query.keys(), line
        action = "s3:ListBucketMultipartUploads" if "uploads" in query else "s3:ListBucket"
        return action, f"arn:aws:s3:::{bucket}", {"s3:prefix": query["prefix"][0]}
    actions = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "POST": "s3:PutObject"}
    actions["DELETE"] = "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"
    if method == "GET" and "uploadId" in query:
        actions["GET"] = "s3:ListMultipartUploadParts"
    # Whether a commit is conditional is decided in least_privilege.py; here all are.
    return actions[method], f"arn:aws:s3:::{bucket}/{key}", {"s3:if-none-match": "*"}


def test_a_worker_has_the_s3_permissions_for_packing_and_pretraining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        stack = applied("dev")
    except Unavailable as reason:
        pytest.skip(str(reason))
    access = Access(stack, clusters(stack)[0])
    lines: set[str] = set()
    with faulty_s3() as proxy:
        draw = proxy.draw

        def noting(line: str, has_body: bool) -> Any:
            lines.add(line)
            return draw(line, has_body)

        monkeypatch.setattr(proxy, "draw", noting)
        plain_client(proxy).create_bucket(Bucket=access.bucket("runs"))
        for name, value in {**client_environment(proxy), "MEMLM_CACHE": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        for pipeline in ("prepare_corpus", "pretrain"):
            ended = run_pipeline(pipeline, "smoke", "--storage", access.storage, *SHORT, timeout=240)
            assert ended.code == 0, ended.err[-3000:]
    asked = {(action, arn, tuple(context.items())) for action, arn, context in map(asked_of_s3, lines)}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"} <= {action for action, _, _ in asked}
    refused = [
        f"{action} on {arn}: {decision.reason}"
        for action, arn, context in sorted(asked)
        if not (decision := access.decide_s3("worker", action, arn, dict(context)))
    ]
    assert not refused, "\n".join(refused)
