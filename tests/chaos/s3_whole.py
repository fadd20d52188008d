"""All pipelines, from an empty store to their end, on S3 that fails one request in twenty: each
ends with status 0 and with the results of a local run.

Local and remote, the same command lines run in a process each. Then everything in the local
run's folder is looked up on the store, and compared to the bit but for what clocks say.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from unittest import mock

from memlm import storage
from memlm.data.corpus.shards import write_shard
from memlm.training.patch import apply_patch, undo_patch
from tests.chaos.frame import Outcome, Row
from tests.chaos.in_turn import ENDED
from tests.jobs.running import ROOT, environment
from tests.support.faults import client_environment, faulty_s3, make_bucket
from tests.support.serving import says, serving

SHARE = 0.05
STALL_SECONDS = 1.0
SECONDS = 900.0
"""Limit for the pipelines of one side, after which they count as hanging."""
NOTES = ("leases", "counts-attempts", "blocks-attempts")
"""Folders of leases and locks, which are no results."""
CLOCKS = ("seconds", "seconds_learning", "seconds_per_step")
SMALL = (
    *("--pretraining.num-steps", "36", "--pretraining.warmup-steps", "4", "--pretraining.checkpoint-every", "16"),
    *("--counting.num-batches", "4", "--counting.batches-per-unit", "2"),
)
LEARNS = ("--stream.num-passes", "1", "--evaluation.num-text-blocks", "2")
FEW_SLOTS = ("--analysis.num-facts", "1", "--analysis.slot-counts", "20", "--analysis.num-steps", "1")


def commands(place: str, tracking: str, *, inputs: str, endpoint: str) -> list[list[str]]:
    """Commands, one of each pipeline, in the order in which they need each other. `inputs` is the
    folder of documents and their questions."""
    writer = ("--writer.model", "m", "--writer.endpoint.base-url", endpoint)
    documents = (
        *("--questions.documents.path", f"{inputs}/documents.jsonl"),
        *("--questions.documents.questions", f"{inputs}/asked.jsonl"),
        *("--questions.documents.chunk-tokens", "40", "--questions.documents.min-chunk-tokens", "0"),
        *("--questions.documents.max-augmentation-tokens", "63", "--questions.documents.num-augmentations", "2"),
    )
    lines = [
        ("prepare_corpus.py",),
        ("pretrain.py",),
        ("pretrain.py", "--architecture", "dense"),
        ("count_accesses.py",),
        ("finetune.py", *LEARNS),
        ("finetune.py", *LEARNS, "--trace", "True"),
        ("finetune.py", *LEARNS, "--method", "sparse_memory_decorrelated"),
        ("finetune.py", *LEARNS, "--method", "lora"),
        ("evaluate.py", *LEARNS),
        ("evaluate.py", *LEARNS, "--checkpoint", f"{place}/smoke/checkpoint-dense"),
        ("analyze_slots.py", *LEARNS, *FEW_SLOTS),
        ("pareto_sweep.py", *LEARNS, "--sweep.seeds", "0"),
        ("write_statements.py", *writer, "--wordings.num-wordings", "2", "--wordings.max-failed-share", "1"),
        ("prepare_corpus.py", "--base-run", "smoke", "--run-name", "stated", "@learn them with:"),
        ("augment_documents.py", "--base-run", "smoke", "--run-name", "documents", *documents),
        ("prepare_corpus.py", "--base-run", "smoke", "--run-name", "documents", *documents),
    ]
    common = ("--storage", place, "--tracking", tracking, *SMALL)
    return [[name, "smoke", *common, *options] for name, *options in lines]


def run_whole(seed: int, small: bool) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="memlm-chaos-") as folder, serving(_state) as writer, faulty_s3(seed) as s3:
        local = Path(folder, "local")
        inputs = Path(folder, "inputs")
        _write_documents(inputs)
        lines = commands(str(local), f"sqlite:///{folder}/local.db", inputs=str(inputs), endpoint=writer.url)
        ended = _run(lines, Path(folder), {})
        assert ended and all(line.startswith("0 ") for line in ended), f"the undisturbed run failed: {ended}"
        _apply_and_undo(str(local))
        bucket = make_bucket(s3)
        place, environ = f"{bucket}/a prefix/runs", {**client_environment(s3), "MEMLM_CACHE": f"{folder}/cache"}
        with mock.patch.dict("os.environ", environ):
            for path in inputs.iterdir():
                storage.write_bytes(f"{bucket}/inputs/{path.name}", path.read_bytes())
        s3.stall_seconds = STALL_SECONDS
        s3.plan(seed=seed, share=SHARE)
        lines = commands(place, f"sqlite:///{folder}/s3.db", inputs=f"{bucket}/inputs", endpoint=writer.url)
        ended = _run(lines, Path(folder), environ)
        with mock.patch.dict("os.environ", environ):
            _apply_and_undo(place)
        requests, injected = s3.requests, dict(sorted(s3.injected.items()))
        s3.plan()
        with mock.patch.dict("os.environ", environ):
            compared, differing = _compare(local, place)
    return Outcome(
        tries=len(lines) if injected else 0,
        survived=sum(line.startswith("0 ") for line in ended),
        differences=len(differing),
        details={
            "requests": requests,
            "faults": injected,
            "compared": len(compared),
            "differing": differing,
            "commands": ended,
        },
    )


def _run(lines: list[list[str]], folder: Path, environ: dict[str, str]) -> list[str]:
    """Exit status and command of each pipeline."""
    (folder / "commands.json").write_text(json.dumps(lines))
    command = [sys.executable, "-m", "tests.chaos.in_turn", str(folder / "commands.json")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment(**environ), timeout=SECONDS
    )
    ended = re.findall(rf"^{ENDED} (.*)$", done.stdout, re.MULTILINE)
    if done.returncode or len(ended) != len(lines):
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)  # pytest and the console show it
    return ended


def _apply_and_undo(place: str) -> None:
    """Apply and undo a patch, as `memlm apply` and `memlm undo` do."""
    checkpoint, learned = f"{place}/smoke/checkpoint-memory", f"{place}/smoke/learned"
    (patch,) = [
        name for name in storage.list_names(learned) if name.startswith("sparse_memory-") and "trace" not in name
    ]
    apply_patch(checkpoint, f"{learned}/{patch}", f"{place}/smoke/patched")
    undo_patch(f"{place}/smoke/patched", f"{learned}/{patch}", f"{place}/smoke/undone")


def _compare(local: Path, place: str) -> tuple[list[str], list[str]]:
    """The names compared, and those that differ: artifacts by their files, other files by their
    contents."""
    compared, differing = [], []
    for path in sorted(local.rglob("*")):
        name = path.relative_to(local).as_posix()
        if path.name == storage.MANIFEST:
            here, there = str(path.parent), f"{place}/{name.removesuffix('/' + storage.MANIFEST)}"
            same = _files(here) == _files(there)
        elif path.is_file() and not _is_passing(path, local):
            same = _said(path.read_bytes(), name) == _said(storage.read_bytes(f"{place}/{name}") or b"", name)
        else:
            continue
        compared.append(name)
        differing += [] if same else [name]
    return compared, differing


def _is_passing(path: Path, local: Path) -> bool:
    """Files of artifacts are compared with their manifest. How long stages took is no result."""
    inside = any((folder / storage.MANIFEST).exists() for folder in path.parents if local in folder.parents)
    return (
        inside
        or path.name in ("stages.json", "report.html", "frontier.csv")
        or path.parts[-2] in NOTES
        or path.parts[-3] in NOTES
    )


def _files(uri: str) -> dict[str, Any]:
    """An artifact's files by their digests, and scores by what they say."""
    try:
        manifest = storage.read_manifest(uri)
        folder = storage.open_artifact(uri)
    except storage.StorageError as error:
        return {"error": str(error)}
    found: dict[str, Any] = {
        name: about["sha256"] for name, about in manifest.files.items() if not name.startswith("base_manifest")
    }  # which holds how fast the base was trained
    for name in found:
        if name == "scores.json":
            found[name] = _said((folder / name).read_bytes(), name)
    return {**found, "kind": manifest.kind}


def _said(body: bytes, name: str) -> Any:
    return list(_timeless(json.loads(body))) if name.endswith(".json") and body else body


def _timeless(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """All numbers and texts with their places in the document, without times and the run's
    address."""
    if isinstance(value, dict):
        for name in sorted(value):
            of_clocks = name in CLOCKS or (name == "digest" and not at)  # a record's own covers how long it took
            if not of_clocks and not (name == "checkpoint" and "digest" in value):
                yield from _timeless(value[name], f"{at}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _timeless(item, f"{at}[{index}]")
    else:
        yield at, value


def _write_documents(folder: Path) -> None:
    folder.mkdir()
    names = ("Ada", "Bo")
    write_shard(
        str(folder / "documents.jsonl"),
        (
            {"id": name, "title": f"{name} Doe", "text": f"{name} was born in {name}ville.\n{name} kept bees."}
            for name in names
        ),
    )
    write_shard(
        str(folder / "asked.jsonl"),
        (
            {"id": f"q{name}", "question": f"Where was {name} Doe born?", "answer": f"{name}ville", "doc_ids": [name]}
            for name in names
        ),
    )


def _state(handler: BaseHTTPRequestHandler, content: dict[str, Any]) -> None:
    """A writer that follows the prompts of write_statements."""
    prompt = content["messages"][0]["content"]
    if asked := re.search(r"Question: (.*)\nAnswer: (.*)\n", prompt):
        words = asked[1].rstrip("?").split()
        return says(f"{asked[2]} is the answer about {' '.join(words[len(words) // 2 :])}.")(handler, content)
    fact = re.search(r"Fact: (.*)", prompt)
    assert fact is not None, prompt
    says("".join(f"{number}. {fact[1]} So say {number} people.\n" for number in range(1, 9)))(handler, content)


ROWS = [
    Row(
        name="s3_whole",
        bar="every pipeline ends with status 0 at 5 % faults, 0 results that differ from the local run's",
        tries=len(commands("", "", inputs="", endpoint="")),
        run=run_whole,
        seconds=290,
        small_seconds=0,  # every pipeline twice takes more than a small tier may
    )
]
