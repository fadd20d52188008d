"""All readers of bytes from outside: each reads them or refuses them in one line, in bounded time
and memory.

    python -m tests.chaos.outside_bytes SEED FIRST LAST

reads these inputs and prints a line of JSON for each; the row runs it in a process of its own.
"""

import csv
import hashlib
import io
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zstandard
from safetensors.torch import save

from tests.chaos.frame import Outcome, Row
from tests.chaos.outside_mutants import changed, changed_bytes, changed_json, safetensors

FULL, SMALL = 20_000, 300
GROWTH_BYTES = 256 * 2**20
HANG_SECONDS = 30
ROOT = Path(__file__).parents[2]


class Fault(Exception):
    """Forbidden behaviour of a reader."""


Reader = Callable[[random.Random, Path], None]
"""Function that makes one input in an empty folder and lets memlm read it."""


def _sealed(rng: random.Random, manifest: dict[str, Any]) -> bytes:
    """A changed manifest, half of the time with the matching digest, which an attacker would
    compute too."""
    from memlm.storage.manifests import Manifest

    written = changed(rng, manifest)
    if rng.random() < 0.5:
        try:
            content = json.loads(written)
            content.pop("digest", None)
            return Manifest(**content).to_json()
        except Exception:
            return written
    return written


def manifests(rng: random.Random, folder: Path) -> None:
    from memlm import storage

    uri = f"{folder}/artifact"
    with storage.write_artifact(uri, kind="sample", config={"a": 1, "b": [1, 2]}, inputs={"corpus": "0" * 64}) as draft:
        (draft.path / "inner").mkdir()
        (draft.path / "inner" / "numbers.json").write_text("[1, 2]")
        draft.details["rows"] = {"w": 3}
    path = Path(uri, storage.MANIFEST)
    path.write_bytes(_sealed(rng, json.loads(path.read_bytes())))
    storage.read_manifest(uri, kind="sample")
    storage.open_artifact(uri)


def _checkpoint(folder: Path, weights: bytes) -> str:
    from memlm import storage
    from memlm.kinds import CHECKPOINT_KIND

    uri = f"{folder}/checkpoint"
    with storage.write_artifact(uri, kind=CHECKPOINT_KIND, config={}) as draft:
        (draft.path / "model.safetensors").write_bytes(weights)
        (draft.path / "config.json").write_text("{}")
    return uri


def _rows(rng: random.Random) -> torch.Tensor:
    rows = rng.choice([[0, 3], [3, 0], [1, 1], [-1], [16], [2**40], [5, 2, 9], [], [15], [2], [0]])
    kind = rng.choice([torch.int64] * 6 + [torch.int32, torch.float32, torch.bool])
    shape = torch.tensor(rows).to(kind)
    return shape[:, None] if rng.random() < 0.05 else shape


def patches(rng: random.Random, folder: Path) -> None:
    from memlm import storage
    from memlm.kinds import PATCH_FILE, PATCH_KIND
    from memlm.training.patch import apply_patch, undo_patch

    table = torch.arange(64, dtype=torch.float32).reshape(16, 4)
    weights = save({"w": table, "v": torch.ones(8, 4)})
    if rng.random() < 0.2:
        weights = changed_bytes(rng, weights)
    checkpoint = _checkpoint(folder, weights)
    before = _digest(Path(checkpoint))
    rows = _rows(rng) if rng.random() < 0.7 else torch.tensor([1, 4])
    width = rng.choice([4] * 8 + [3, 5, 0])
    count = len(rows) if rng.random() < 0.9 else len(rows) + 1
    old = table[rows.long().flatten().clamp(0, 15)][:count, :width].contiguous()
    new = torch.full((count, width), rng.choice([0.5, 0.5, 0.5, float("nan"), float("inf")]))
    kind = rng.choice([torch.float32] * 8 + [torch.float16, torch.float64])
    name = rng.choice(["w"] * 8 + ["u", "", "__metadata__x", "w:rows"])
    tensors = {f"{name}:rows": rows, f"{name}:before": old.to(kind), f"{name}:after": new.to(kind)}
    if rng.random() < 0.1:
        tensors.pop(rng.choice(list(tensors)))
    content = save(tensors)
    if rng.random() < 0.2:
        content = changed_bytes(rng, content)
    elif rng.random() < 0.1:
        length = int.from_bytes(content[:8], "little")
        content = safetensors(changed_json(rng, json.loads(content[8 : 8 + length])), content[8 + length :])
    digest = storage.read_manifest(checkpoint).digest
    inputs = {"checkpoint": digest} if rng.random() < 0.95 else rng.choice([{}, {"checkpoint": "0"}])
    with storage.write_artifact(f"{folder}/patch", kind=PATCH_KIND, config={}, inputs=inputs) as draft:
        (draft.path / (PATCH_FILE if rng.random() < 0.97 else "other")).write_bytes(content)
    try:
        apply_patch(checkpoint, f"{folder}/patch", f"{folder}/patched")
        undo_patch(f"{folder}/patched", f"{folder}/patch", f"{folder}/restored")
    finally:
        if _digest(Path(checkpoint)) != before:
            raise Fault("the checkpoint itself was changed")
    if _digest(Path(folder, "restored")) != before:
        raise Fault("undoing does not give the checkpoint's files back")


def _digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def ledgers(rng: random.Random, folder: Path) -> None:
    from dataclasses import asdict

    from memlm.data.config import StreamConfig
    from memlm.evaluation.config import EvaluationConfig
    from memlm.jobs.sweep.planned_trials import PlannedTrial, read_results
    from memlm.methods.full import FullConfig
    from memlm.results.frontier import build_frontier
    from memlm.results.scores import SetScore, TrialResult
    from memlm.run import Run
    from memlm.training.trial import Trial

    score = SetScore(task="questions@1", measure="exact_match", chance=0.0, items=(1.0, 0.0))
    sets = {"new_facts": score, "known_facts": score}
    trial = Trial(method=FullConfig(), stream=StreamConfig(), evaluation=EvaluationConfig(), seed=0)
    result = TrialResult(
        key="key",
        method="full",
        hyperparameters={"learning_rate": 1.0},
        seed=0,
        start=sets,
        end=sets,
        extra={"seconds": 1.0},
    )
    entry = rng.choice([{"result": asdict(result)}, {"failed": "nan", "hyperparameters": {"learning_rate": 1.0}}])
    path = folder / "run" / "trials" / "key.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(changed(rng, entry))
    run = Run(f"{folder}/run", f"{folder}/run")
    results, failed = read_results(run, [PlannedTrial(key="key", trial=trial, architecture="dense")])
    if results:
        build_frontier("smoke", [found for _, found in results], failed=failed, samples=10)


def leases(rng: random.Random, folder: Path) -> None:
    from memlm.storage import leases as stored

    uri = f"{folder}/lease"
    stored.acquire(uri, owner="another", ttl_seconds=rng.choice([0.001, 1000])).release()
    record = json.loads(Path(uri).read_bytes())
    record["released"] = rng.random() < 0.5
    Path(uri).write_bytes(changed(rng, record))
    stored.acquire(uri, owner="me", ttl_seconds=5).renew()


SETS: dict[str, dict[str, Any]] = {
    "triviaqa": {"question_id": "a", "question": "Who?", "answer": {"value": "Ann", "aliases": ["A", "Ann"]}},
    "nq_open": {"question": "who?", "answer": ["Ann", "Bo"]},
    "entityquestions": {"question": "Where?", "answers": ["Oslo"], "relation": "P19"},
    "gsm8k": {"question": "How many?", "answer": "2 and 3 is 5.\n#### 5"},
    "hellaswag": {"ind": 1, "query": "He", "choices": ["a", "b", "c", "d"], "gold": 1},
    "simpleqa": {"problem": "Who?", "answer": "Ann", "metadata": "{'topic': 'x', 'answer_type': 'Person', 'urls': []}"},
    "fields": {"id": 3, "question": "Who?", "answer": "Ann"},
}


def questions(rng: random.Random, folder: Path) -> None:
    from memlm.data.config import QuestionSetConfig
    from memlm.data.questions.questions import read_set

    layout = rng.choice(list(SETS))
    rows = [
        SETS[layout],
        json.loads(changed_json(random.Random(rng.random()), SETS[layout])) if rng.random() < 0 else SETS[layout],
    ]
    suffix = rng.choice([".jsonl", ".jsonl", ".json", ".csv", ".parquet", ".jsonl.zst"])
    path = folder / f"set{suffix}"
    if suffix == ".json":
        content = changed(rng, rows)
    elif suffix == ".csv":
        content = _csv(rng, SETS[layout])
    elif suffix == ".parquet":
        written = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), written)
        content = changed_bytes(rng, written.getvalue())
    else:
        content = b"\n".join([json.dumps(rows[0]).encode(), changed(rng, rows[1])])
        if suffix == ".jsonl.zst":
            content = (
                zstandard.compress(content) if rng.random() < 0.7 else changed_bytes(rng, zstandard.compress(content))
            )
    path.write_bytes(content)
    share = rng.choice([0.0, 0.9])
    read_set(QuestionSetConfig(path=str(path), layout=layout, max_malformed_share=share), report=lambda text: None)


def _csv(rng: random.Random, row: dict[str, Any]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(row)
    writer.writerow(
        [rng.choice([str(value), "{'answer_type': " + "[" * 3000, "\ud7ff", "x" * 200_000]) for value in row.values()]
    )
    content = text.getvalue().encode()
    return changed_bytes(rng, content) if rng.random() < 0.5 else content


def statements(rng: random.Random, folder: Path) -> None:
    from memlm.data.questions.facts import read_facts
    from memlm.data.questions.records import Question

    path = folder / "statements.jsonl"
    line = {"id": "a", "statements": ["Ann was born in Oslo.", "Oslo is Ann's birthplace."]}
    path.write_bytes(changed(rng, line) + b"\n")
    read_facts(str(path), [Question(id="a", question="Where was Ann born?", answers=("Oslo",))])


def documents(rng: random.Random, folder: Path) -> None:
    from memlm.data.documents.documents import read_document_questions, read_titled_documents

    path = folder / "documents.jsonl"
    path.write_bytes(
        changed(rng, {"id": "d", "title": "Oslo", "text": "Oslo is a city.\n\nAnn was born there."}) + b"\n"
    )
    asked = folder / "asked.jsonl"
    asked.write_bytes(changed(rng, {"id": "q", "question": "Who?", "answer": "Ann", "doc_ids": ["d"]}) + b"\n")
    for read, source in ((read_titled_documents, path), (read_document_questions, asked)):
        try:
            read(str(source))
        except ValueError as error:
            _require_one_line(error)


_TOKENIZER: dict[str, bytes] = {}


def tokenizers(rng: random.Random, folder: Path) -> None:
    from memlm.data.tokenizer import load_tokenizer, train_tokenizer

    if not _TOKENIZER:
        with tempfile.TemporaryDirectory() as saved:
            train_tokenizer(["Ann was born in Oslo."] * 3, vocab_size=300).save_pretrained(saved)
            _TOKENIZER.update({path.name: path.read_bytes() for path in Path(saved).iterdir() if path.is_file()})
    changed_file = rng.choice(list(_TOKENIZER))
    for name, content in _TOKENIZER.items():
        (folder / name).write_bytes(changed(rng, json.loads(content)) if name == changed_file else content)
    tokenizer = load_tokenizer(str(folder))
    tokenizer("Ann was born in Oslo, in 1984.", add_special_tokens=False)


def configs(rng: random.Random, folder: Path) -> None:
    from memlm import storage
    from memlm.jobs.trial.materials import load_model
    from memlm.kinds import CHECKPOINT_KIND
    from tests.support.tiny import tiny_model

    with storage.write_artifact(f"{folder}/checkpoint", kind=CHECKPOINT_KIND, config={}) as draft:
        tiny_model().save_pretrained(draft.path)
        path = draft.path / "config.json"
        if rng.random() < 0.7:
            path.write_bytes(changed(rng, json.loads(path.read_bytes())))
        else:
            path = draft.path / "model.safetensors"
            path.write_bytes(changed_bytes(rng, path.read_bytes()))
    load_model(f"{folder}/checkpoint")


def answers(rng: random.Random, folder: Path) -> None:
    from memlm.data.config import WordingsConfig
    from memlm.data.documents.active_reading import strategies_of
    from memlm.data.questions.records import Question
    from memlm.data.stating.paraphrasing import state_facts
    from memlm.data.writers.budget import Budget
    from memlm.data.writers.config import EndpointConfig, WriterConfig
    from memlm.data.writers.endpoint import EndpointWriter
    from tests.support.serving import raw, serving

    message = {"role": "assistant", "content": "## One\n<think>x</think>1. Ann was born in Oslo.\n- Oslo, Ann."}
    answer = {"choices": [{"message": message}], "usage": {"total_tokens": 7}}
    endpoint = {"timeout_seconds": 5.0, "num_attempts": 1, "backoff_seconds": 0.001, "max_tokens": rng.choice([0, 100])}
    with serving(raw(changed(rng, answer))) as server:
        config = WriterConfig(model="m", endpoint=EndpointConfig(base_url=server.url, **endpoint))
        writer = EndpointWriter(config, Budget(max_requests=0, max_tokens=endpoint["max_tokens"]))
        asked = [[Question(id="a", question="Where was Ann born?", answers=("Oslo",))]]
        for text in writer.write([]):
            strategies_of(text)
        state_facts(writer, asked, WordingsConfig(num_wordings=2, max_rounds=1))


KINDS: dict[str, tuple[Reader, int]] = {
    "manifests": (manifests, 20),
    "patches": (patches, 20),
    "ledgers": (ledgers, 15),
    "leases": (leases, 8),
    "questions": (questions, 20),
    "statements": (statements, 5),
    "documents": (documents, 5),
    "tokenizers": (tokenizers, 2),
    "configs": (configs, 1),
    "answers": (answers, 4),
}
"""Kinds of inputs, each with its share."""


def _require_one_line(error: BaseException) -> None:
    """Whether an error is one line. An indented list of faulty records may follow it."""
    first, *others = str(error).splitlines() or [""]
    if not first.strip() or not all(line.startswith("  ") for line in others):
        raise Fault(f"not one line: {error!s}") from error


def outcome_of(kind: str, seed: str, folder: Path) -> str:
    """ "read", "refused", or a description of the forbidden behaviour."""
    try:
        KINDS[kind][0](random.Random(seed), folder)
        return "read"
    except Fault as fault:
        return f"fault: {fault}"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith("memlm."):
            return f"fault: {_place(error)}"
        try:
            _require_one_line(error)
        except Fault as fault:
            return f"fault: {fault}"
        return "refused"


def _place(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "memlm" in frame.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {str(error)[:120]!r} at {Path(last.filename).name}:{last.lineno}"


def outcomes(seed: int, numbers: range) -> Iterator[dict[str, Any]]:
    kinds, shares = list(KINDS), [share for _, share in KINDS.values()]
    for kind in kinds:  # imports the reader's libraries, which do not count as growth
        with tempfile.TemporaryDirectory(prefix="memlm-outside-") as folder:
            outcome_of(kind, "first", Path(folder))
    began = memory = _peak()
    for number in numbers:
        kind = random.Random(f"{seed} {number}").choices(kinds, shares)[0]
        with tempfile.TemporaryDirectory(prefix="memlm-outside-") as folder:
            signal.alarm(HANG_SECONDS)
            outcome = outcome_of(kind, f"{seed} {number} {kind}", Path(folder))
            signal.alarm(0)
        before, memory = memory, _peak()
        yield {"number": number, "kind": kind, "outcome": outcome, "grown_bytes": memory - before}
    yield {"growth_bytes": memory - began}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def feed(seed: int, small: bool) -> Outcome:
    command = [sys.executable, "-m", __name__, str(seed), "0", str(SMALL if small else FULL)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the readers ended with {done.returncode}: {done.stdout[-300:]} {done.stderr[-2000:]}")
    *lines, growth = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    if growth["growth_bytes"] > GROWTH_BYTES:
        raise RuntimeError(f"the readers grew by {growth['growth_bytes']} bytes")
    faults = [line for line in lines if line["outcome"].startswith("fault")]
    return Outcome(
        tries=len(lines),
        survived=len(lines) - len(faults),
        differences=len(faults),
        details={
            **growth,
            "kinds": dict(Counter(line["kind"] for line in lines)),
            "outcomes": dict(Counter(line["outcome"].partition(":")[0] for line in lines)),
            "faults": faults[:10],
            "largest": max(lines, key=lambda line: line["grown_bytes"]),
        },
    )


def main() -> None:
    seed, first, last = map(int, sys.argv[1:4])
    torch.set_num_threads(1)
    for outcome in outcomes(seed, range(first, last)):
        print(json.dumps(outcome), flush=True)


ROWS = [
    Row(
        name="outside_bytes",
        bar="20,000 inputs read or refused in one line; no traceback, no hang, no growth over 256 MiB",
        tries=FULL,
        run=feed,
        seconds=210,
        small_seconds=15,
    )
]

if __name__ == "__main__":
    main()
