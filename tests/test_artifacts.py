"""Artifacts are named as they were by the code before `memlm/artifacts.py`, so that runs made then
are reused. `recorded/identities.json` was written by that code, and is never written again.
`recorded/trials.json` holds the keys of the trials of its sweeps, each with its method and the
settings that differ from the method's own."""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memlm import artifacts, storage
from memlm.artifact import Artifact
from memlm.cli import parse
from memlm.config import Config, replace_field
from memlm.data.config import HeldOutConfig, QuestionSetConfig
from memlm.data.corpus.config import SamplesConfig
from memlm.data.corpus.listing import Shard
from memlm.data.documents.active_reading import APPLY_PROMPT, STRATEGY_PROMPTS
from memlm.data.stating.paraphrasing import PROMPTS
from memlm.identity import role_of
from memlm.jobs.pretrain_worker import digest_of
from memlm.methods.config import RehearsalConfig
from memlm.methods.full import FullConfig
from memlm.methods.registry import METHOD_CONFIGS
from memlm.run import RunError

RECORDED = json.loads((Path(__file__).parent / "recorded" / "identities.json").read_text())
TRIALS = json.loads((Path(__file__).parent / "recorded" / "trials.json").read_text())
STORAGE = "/runs"
INPUTS = {"corpus": "0a", "questions": "0b", "checkpoint": "0c"}
SHARDS = (
    Shard(root="/text", name="a.jsonl", bytes=12),
    Shard(root="s3://bucket/text", name="b/c.jsonl.zst", bytes=34, version="etag"),
)
REVISION = "c0ffee"


def config_of(arguments: list[str]) -> Config:
    return parse("", [*arguments, "--storage", STORAGE])


def inputs_of(config: Config) -> dict[str, str]:
    return {**INPUTS, **({"counts": "0d"} if config.method.base == "memory" else {})}


def artifacts_of(config: Config) -> dict[str, Artifact]:
    """Every product of a run, as its stage makes it."""
    read, sources = inputs_of(config), {"world": "01"} if config.world else {}
    found = {
        "listing": artifacts.listing(config, "train", "s3://bucket/text", "corpus"),
        "tokenizer": artifacts.tokenizer(config).made_from(**sources, sources="02"),
        "corpus": artifacts.corpus(config).made_from(**sources, sources="02"),
        "questions": artifacts.questions(config).made_from(sources="02"),
        "checkpoint memory": artifacts.checkpoint(config, "memory"),
        "checkpoint dense": artifacts.checkpoint(config, "dense"),
        "partial counts": artifacts.partial_counts(config, range(5)),
        "counts": artifacts.counts(config),
        "patch": artifacts.learned(config, read),
        "trace": artifacts.trace(config, read),
    }
    for index, shard in enumerate(SHARDS):
        found[f"blocks {index}"] = artifacts.blocks(config, index, shard, tokenizer="03")
    if config.world:
        found["world"] = artifacts.world(config)
    if config.corpus.mixture:
        found["mixture"] = artifacts.mixture(config, questions="04")
    if config.questions.documents:
        augmenter = config.questions.documents.augmenter
        written = augmenter != "rules"
        prompts = (STRATEGY_PROMPTS.get(augmenter, APPLY_PROMPT), APPLY_PROMPT) if written else ()
        documents = artifacts.documents(config, revision=REVISION if written else None, prompts=prompts)
        found["questions"] = artifacts.questions(config).made_from(sources="02", documents="05")
        found["documents"] = documents.made_from(sources="02", corpus="0a")
        found["unit of documents"] = unit(documents, {**documents.identity, "corpus": "0a"})
    elif config.writer.model:
        asked = {"revision": REVISION, "prompts": PROMPTS}
        statements = artifacts.statements(config, **asked)
        found["statements"] = statements.made_from(questions="04")
        found["unit of statements"] = unit(statements, artifacts.unit_of_statements(config, **asked))
    return found


def unit(whole: Artifact, decided_by: Mapping[str, Any]) -> Artifact:
    """The first two items of it."""
    return artifacts.written_unit(storage.join(whole.units, artifacts.unit_name(0, 2)), "[1, 2]", decided_by)


def as_recorded(artifact: Artifact) -> dict[str, Any]:
    """What its stage writes into the manifest, but for the digests of its inputs."""
    named = json.loads(json.dumps(dict(artifact.identity)))
    if "items" in named:
        named["items"] = "1e"
    place = artifact.uri.removeprefix(f"{STORAGE}/")
    return {"place": place, "kind": artifact.kind, "identity": named, "inputs": sorted(artifact.inputs)}


@pytest.mark.parametrize("case", RECORDED["cases"])
def test_every_artifact_keeps_its_identity(case):
    recorded = RECORDED["cases"][case]
    wanted = {
        name: {"place": place, "kind": kind, "identity": RECORDED["identities"][named], "inputs": inputs}
        for name, (place, kind, named, inputs) in recorded["artifacts"].items()
    }
    made = artifacts_of(config_of(recorded["arguments"]))
    assert {name: as_recorded(artifact) for name, artifact in made.items()} == wanted


@pytest.mark.parametrize("case", RECORDED["cases"])
def test_every_trial_and_training_state_keeps_its_key(case):
    recorded = RECORDED["cases"][case]
    config = config_of(recorded["arguments"])
    assert artifacts.trial_of(config).key(inputs_of(config)) == recorded["trial"]
    states = {name: digest_of(artifacts.checkpoint(config, name)) for name in ("memory", "dense")}
    assert states == recorded["training_states"]


@pytest.mark.parametrize("recipe", TRIALS)
def test_every_trial_of_a_recorded_sweep_keeps_its_key(recipe):
    config = config_of([recipe])
    keys = {}
    for key, (method, changed) in TRIALS[recipe].items():
        setting = METHOD_CONFIGS[method]()
        for field, value in changed.items():
            setting = replace_field(setting, field, value)
        keys[key] = artifacts.trial_of(replace(config, method=setting, seed=config.sweep.seeds[0])).key(
            inputs_of(config)
        )
    assert keys and all(recorded == now for recorded, now in keys.items())


def made_by_smoke(config: Config) -> dict[str, Artifact]:
    """What the recorded run made, by its place, as it is asked for now."""
    patch = RECORDED["made"]["learned/sparse_memory-46d34e4c907cee61"]
    asked = {**artifacts_of(config), "patch": artifacts.learned(config, patch["inputs"])}
    places = {artifact.uri.removeprefix(f"{STORAGE}/smoke/"): artifact for artifact in asked.values()}
    for index in range(3):
        place = artifacts.blocks_name(index)
        made_from = RECORDED["made"][place]["config"]
        shard = Shard(root="/world", name=made_from["shard"], bytes=made_from["bytes"])
        places[place] = artifacts.blocks(config, index, shard, tokenizer="03")
    return places


def test_an_old_smoke_run_is_reused():
    """The manifests of a run that was really made: a sweep and a finetune."""
    asked = made_by_smoke(config_of(["smoke"]))
    for place, manifest in RECORDED["made"].items():
        named = as_recorded(asked[place])
        assert (named["kind"], named["identity"]) == (manifest["kind"], manifest["config"])
        assert named["inputs"] == sorted(manifest["inputs"])
    assert len(RECORDED["made"]) == 11


def leaves(part: Any, path: tuple[str, ...] = (), *, names: bool = True) -> Iterator[tuple[tuple[str, ...], bool]]:
    """The path of every setting, and whether it and all parts above it name a result."""
    if isinstance(part, tuple) and part and is_dataclass(part[0]):
        yield from leaves(part[0], (*path, "0"), names=names)
    elif is_dataclass(part):
        for each in fields(part):
            named = names and role_of(each).names_result
            yield from leaves(getattr(part, each.name), (*path, each.name), names=named)
    else:
        yield path, names


def with_another_value(part: Any, path: tuple[str, ...]) -> Any:
    """A copy with the setting at this path changed, whatever the rules for its value."""
    if not path:
        return another(part)
    if isinstance(part, tuple):
        return (with_another_value(part[0], path[1:]), *part[1:])
    changed = copy.copy(part)
    object.__setattr__(changed, path[0], with_another_value(getattr(part, path[0]), path[1:]))
    return changed


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 + 0.3
        case str():
            return f"{value}x"
        case tuple():
            return (*value, *(value[:1] or ("x",)))
    raise TypeError(value)


def names_of(config: Config) -> str:
    """The identities of all products and the key of the trial, not their addresses."""
    named = {name: dict(artifact.identity) for name, artifact in artifacts_of(config).items()}
    named["reads"] = dict(artifacts.reads(config).identity)  # younger than the recorded ones
    named["known"] = dict(artifacts.known(config, config.questions.facts, questions="06", examples="07").identity)
    return json.dumps([named, artifacts.trial_of(config).key(inputs_of(config))], sort_keys=True)


NAMES_NO_ARTIFACT = ("architecture", "checkpoint", "analysis", "sweep")
"""Settings of what is recorded in files that are no artifacts: scores, slots, the frontier."""
WRITER = ["--writer.model", "some/model"]


def with_field(config: Config, path: str, value: Any) -> Config:
    part, _, name = path.partition(".")
    return replace(config, **{part: replace(getattr(config, part), **{name: value})})


EVERY_PART = {
    "facts": config_of(["smoke", *WRITER]),
    "documents": config_of(["wiki_documents", "--questions.documents.augmenter", "trivia", *WRITER]),
    "a sample of the shards": config_of(["smoke", "--corpus.fraction", "0.5"]),
    "a schedule and EWC": config_of(
        ["smoke", "--method", "full", "--method.optimizer.schedule", "linear", "--method.rehearsal.kind", "ewc"]
    ),
    "what the base knows": with_field(
        config_of(["smoke"]),
        "questions.held_out",
        (HeldOutConfig(name="known_facts", path="known.jsonl", base_answers="right"),),
    ),
    "examples": with_field(config_of(["smoke"]), "questions.examples", QuestionSetConfig(path="examples.jsonl")),
    "a base": config_of(["smoke", "--model.base", "/base"]),
    "a base that teaches": config_of(["smoke", "--model.base", "/base", "--pretraining.distillation-weight", "0.5"]),
    "samples": with_field(config_of(["smoke"]), "corpus.samples", SamplesConfig()),
    "a living background": config_of(["smoke", "--method.living-background", "4"]),
    "a background of facts": config_of(["smoke", "--method.background", "new_facts"]),
    **{name: config_of(["smoke", "--method", name]) for name in METHOD_CONFIGS},
}


def test_a_setting_changes_an_identity_exactly_if_it_is_declared_to():
    before = {id(config): names_of(config) for config in EVERY_PART.values()}
    named, said = {}, {}
    for part, config in EVERY_PART.items():
        for path, says in leaves(config):
            looked_at = path[0] == "method" if part in METHOD_CONFIGS else path[0] not in NAMES_NO_ARTIFACT
            if not looked_at or attribute(config, path) is None:
                continue
            said[path] = says
            changes = names_of(with_another_value(config, path)) != before[id(config)]
            named[path] = named.get(path, False) or changes
    assert {".".join(path) for path in said if said[path] and not named[path]} == set()
    assert {".".join(path) for path in said if named[path] and not said[path]} == set()
    assert len(said) > 150


def test_reads_name_only_the_trials_that_use_them():
    """So trials made before there were reads keep their keys."""
    for method in METHOD_CONFIGS:
        config = config_of(["smoke", "--method", method])
        key = artifacts.trial_of(config).key
        with_reads, others = {**inputs_of(config), "reads": "0e"}, {**inputs_of(config), "reads": "0f"}
        assert (key(with_reads) != key(others)) == config.method.uses_reads
        assert (key(with_reads) != key(inputs_of(config))) == config.method.uses_reads


def test_counts_do_not_depend_on_the_reads():
    config, more = config_of(["smoke"]), config_of(["smoke", "--counting.read-tokens", "9"])
    assert artifacts.counts(config).identity == artifacts.counts(more).identity
    assert artifacts.reads(config).identity["read_tokens"] == 65_536 != artifacts.reads(more).identity["read_tokens"]


def attribute(part: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        part = part[0] if name == "0" else getattr(part, name)
    return part


@pytest.fixture
def source(tmp_path: Path) -> Artifact:
    return Artifact(uri=f"{tmp_path}/source", kind="source", identity={"seed": 0}, made_by="make source")


@pytest.fixture
def product(tmp_path: Path, source: Artifact) -> Artifact:
    return Artifact(
        uri=f"{tmp_path}/product",
        kind="product",
        identity={"steps": 1, "parts": ({"size": 2},)},
        inputs={"source": source},
        part="settings",
        made_by="make product",
    )


def write(*artifacts: Artifact) -> None:
    for artifact in artifacts:
        with artifact.write() as draft:
            (draft.path / "file").write_text(artifact.kind)


def refusal(artifact: Artifact) -> str:
    with pytest.raises(RunError) as caught:
        artifact.require()
    return str(caught.value)


def test_an_artifact_is_required_after_its_inputs(source, product):
    assert refusal(product) == f"{source.uri} is missing; make it with: make source"
    write(source)
    assert not product.is_made()
    assert refusal(product) == f"{product.uri} is missing; make it with: make product"
    write(product)
    assert product.is_made() and product.require().inputs == {"source": source.digest}
    assert (product.open() / "file").read_text() == "product"


def test_an_artifact_of_another_identity_is_refused_naming_the_field(source, product):
    write(source, product)
    other = replace(product, identity={"steps": 1, "parts": ({"size": 3},)})
    assert "was made with settings.parts[0].size = 2, and now settings.parts[0].size = 3 is asked for" in refusal(other)
    with pytest.raises(storage.StorageError):
        replace(product, kind="source").is_made()


def test_an_artifact_made_from_another_input_is_refused_naming_the_input(source, product):
    write(source, product)
    pinned = product.pinned()
    assert pinned.is_made()
    shutil.rmtree(source.uri)
    write(replace(source, identity={"seed": 1}))
    assert "seed = 1" in refusal(product)
    now = replace(product, inputs={"source": replace(source, identity={"seed": 1})})
    assert "was made from a different source than this run now has" in refusal(now)
    assert pinned.is_made()


def test_an_input_may_be_missing_once_it_is_spent(source, product):
    spent = replace(product, inputs={"source": replace(source, is_spent=True)})
    write(source, spent)
    shutil.rmtree(source.uri)
    assert spent.is_made() and spent.digests() == {}
    assert "is missing" in refusal(product)


def test_the_choice_of_background_text_is_part_of_the_key_of_trials_that_use_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Artifact, "require", lambda self: SimpleNamespace(digest=self.kind))
    replay = FullConfig(rehearsal=RehearsalConfig(kind="replay"))

    def keys(*arguments: str) -> list[str]:
        config = config_of(["laptop", *arguments])
        inputs = artifacts.trial_inputs(config, "dense", [replay, FullConfig()])
        return [artifacts.trial_of(replace(config, method=method)).key(inputs) for method in (FullConfig(), replay)]

    plain, other = keys(), keys("--counting.num-batches", "80")
    assert plain[0] == other[0] and plain[1] != other[1]
    assert keys("--counting.batches-per-unit", "10") == plain
