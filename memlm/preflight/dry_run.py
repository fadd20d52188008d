"""What would a pipeline do? `--dry-run` prints, stage by stage, what would be read, made and
reused, and how much of it.

Nothing is made, no cluster is started, no server is asked but for the listing of a corpus that
lies in a store and has not been listed yet; where that cannot be had, DCLM's published figures
stand in for it, and the plan says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memlm import storage
from memlm.config import Config
from memlm.data.config import DocumentStreamConfig, QuestionSetConfig
from memlm.data.corpus.listing import Shard
from memlm.data.file_kinds import kind_of
from memlm.data.hub import HUB, HubUnreachable
from memlm.data.paths import PathError, expand
from memlm.identity import identity
from memlm.jobs.preparing.corpus_shards import choose_shards, sources_digest
from memlm.jobs.sweep.planned_trials import plan_trials, unfinished
from memlm.jobs.sweep.spaces import MethodSpace
from memlm.kinds import CHECKPOINT_KIND, CORPUS_KIND, COUNTS_KIND, QUESTIONS_KIND, WORLD_KIND
from memlm.methods.config import MethodConfig
from memlm.model.config import Architecture
from memlm.outside import visible
from memlm.preflight.cost.minutes import fit_side_by_side, machine_told, stage_minutes
from memlm.preflight.planned_questions import count_learned
from memlm.run import (
    checkpoint_config,
    corpus_config,
    counts_config,
    is_made,
    questions_config,
    run_of,
    tracking_uri,
    trial_of,
)
from memlm.training.units import units

# DCLM-baseline as published (Li et al. 2024, arXiv 2406.11794, and the data set's card on the hub).
DCLM_NAMES = ("mlfoundations/dclm-baseline-1.0", "DCLM-baseline")
DCLM_SHARDS = 27_840
DCLM_TOKENS = 4e12
DCLM_SHARD_BYTES = 200e6  # zstd; 141 to 240 MB
DCLM_TOKENS_PER_BYTE = DCLM_TOKENS / DCLM_SHARDS / DCLM_SHARD_BYTES


TO_GO_ON = "to be continued from its newest state"
AHEAD = ("to be made", "to be scored", TO_GO_ON)
"""States of what takes time."""


@dataclass(kw_only=True)
class StagePlan:
    stage: str
    uri: str
    state: str
    lines: list[str] = field(default_factory=list)


class Plan:
    """The stages of one run, in order, as they are found."""

    def __init__(self, config: Config, spaces: Sequence[MethodSpace] = ()) -> None:
        self.config, self.spaces, self.run = config, spaces, run_of(config)
        self.stages: list[StagePlan] = []
        self.obstacles = 0
        self.world: Path | None = None
        """The generated world's folder, where it is made."""
        self.num_blocks: float | None = None
        """Of the training corpus, once it is known or estimated."""
        self.num_learned: int | None = None
        """Facts or documents that there are to learn, once they are counted."""

    def state(self, uri: str, kind: str, wanted: Mapping[str, Any], inputs: Mapping[str, str], part: str = "") -> str:
        try:
            return "reused" if is_made(uri, kind=kind, config=wanted, inputs=inputs, part=part) else "to be made"
        except ValueError as error:
            return self.obstacle(error)

    def obstacle(self, error: Exception) -> str:
        """What a run would be refused for."""
        self.obstacles += 1
        return f"refused: {error}"

    def add(self, stage: str, uri: str, state: str, *lines: str) -> None:
        self.stages.append(StagePlan(stage=stage, uri=uri, state=state, lines=[line for line in lines if line]))

    def digest(self, uri: str) -> dict[str, str]:
        """Of an artifact that later ones are made from; none while it is not there."""
        return {"corpus": storage.read_manifest(uri).digest} if storage.has_artifact(uri) else {}


def run(stage: str, config: Config, spaces: Sequence[MethodSpace] = ()) -> None:
    """Print the plan of a pipeline. Names all that stands in its way, and ends with status 1 if
    something does."""
    plan = Plan(config, spaces)
    for add in STAGES.get(stage, (_corpus, _questions)):
        add(plan)
    print(f"{stage}, recipe {config.recipe}: what would be done. Nothing is made.")
    for number, part in enumerate(plan.stages, start=1):
        print(f"{number:2} {part.stage}: {part.state}{_first_by(stage, part)}")
        for line in (part.uri, *part.lines):
            print(f"     {visible(line)}")
    try:
        print(f"   tracking: {tracking_uri(config) or 'off'}")
    except ValueError as error:
        print(f"   tracking: {plan.obstacle(error)}")
    print(f"   time: {_time(plan)}")
    if plan.obstacles:
        stand = "1 thing stands" if plan.obstacles == 1 else f"{plan.obstacles} things stand"
        print(f"   {stand} in the way; each is named above, after 'refused'")
        raise SystemExit(1)


def _first_by(stage: str, part: StagePlan) -> str:
    """Which command makes what this one only reads; a sweep makes all that it lacks."""
    maker = part.stage.partition(",")[0]
    maker = maker if maker in STAGES else "prepare_corpus"
    makes_it = stage in (maker, "pareto_sweep")
    return "" if makes_it or part.state not in AHEAD else f", by {maker}.py before this"


def _time(plan: Plan) -> str:
    """How long the stages take that are not there yet."""
    try:
        minutes = stage_minutes(_with_what_there_is(plan), _trials_of(plan))
    except ValueError as error:
        return f"not known: {error}"
    ahead = {part.stage: minutes[part.stage] for part in plan.stages if part.stage in minutes and part.state in AHEAD}
    if not ahead:
        return "a few seconds, since everything is there"
    each = ", ".join(f"{stage} {_minutes(number)}" for stage, number in ahead.items())
    total = sum(ahead.values())
    models = [number for stage, number in ahead.items() if stage.startswith("pretrain")]
    if len(models) > 1 and fit_side_by_side(plan.config, len(models)):
        total -= min(models)
    days = f" ({total / 1440:,.1f} days)" if total > 1440 else ""
    return f"about {_minutes(total)} minutes{days} on {machine_told(plan.config)} ({each}), by arithmetic on the recipe"


def _minutes(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _with_what_there_is(plan: Plan) -> Config:
    """A stream takes no more facts than there are."""
    stream, there = plan.config.stream, plan.num_learned
    if isinstance(stream, DocumentStreamConfig) or not there:
        return plan.config
    return replace(plan.config, stream=replace(stream, num_facts=min(stream.num_facts, there)))


def _trials_of(plan: Plan) -> dict[MethodConfig, int]:
    seeds = len(plan.config.sweep.seeds)
    return {setting: seeds for space in plan.spaces for setting in space.settings()}


def _corpus(plan: Plan) -> None:
    config, run, inputs = plan.config, plan.run, {}
    world = _world(plan)
    if config.world is not None and world is None:
        plan.add("prepare_corpus", run.corpus, "to be made", *_packing(config), "from the generated world's shards")
        return
    if world is not None:
        inputs["world"] = storage.read_manifest(run.world).digest
    lines: list[str] = []
    try:
        train, validation = choose_shards(config, world, keep=False)
        lines = [_described("train", train, config), _described("validation", validation, config)]
        plan.num_blocks = _estimated_tokens(train) / config.corpus.block_size if _is_dclm(config) else None
        inputs["sources"] = sources_digest(config, world, [*train, *validation])
        state = plan.state(run.corpus, CORPUS_KIND, corpus_config(config), inputs, "corpus")
    except ValueError as error:
        if _is_dclm(config) and isinstance(error, HubUnreachable | storage.StorageError):
            lines = [f"could not be listed: {error}", *_published(plan)]
            state = plan.state(run.corpus, CORPUS_KIND, corpus_config(config), {}, "corpus")
        else:
            state = plan.obstacle(error)
    if state == "reused":
        plan.num_blocks = storage.read_manifest(run.corpus).details["num_blocks"]
    blocks = f"{_count(plan.num_blocks)} blocks to train on" if plan.num_blocks else ""
    plan.add("prepare_corpus", run.corpus, state, *lines, *_packing(config), blocks)


def _world(plan: Plan) -> Path | None:
    """The generated world, where it is made."""
    config, uri = plan.config, plan.run.world
    if config.world is None:
        return None
    state = plan.state(uri, WORLD_KIND, identity(config.world), {}, "world")
    plan.world = storage.open_artifact(uri, kind=WORLD_KIND) if state == "reused" else None
    plan.add(
        "the generated world",
        uri,
        state,
        f"{config.world.num_documents} documents in {config.world.num_shards} shards, {config.world.num_known} known and "
        f"{config.world.num_new} new people, places and works",
    )
    return plan.world


def _packing(config: Config) -> list[str]:
    corpus = config.corpus
    tokenizer = corpus.tokenizer or f"trained, {corpus.vocab_size} tokens on {corpus.tokenizer_documents} documents"
    mixture = f"mixed with facts of {corpus.mixture.path}" if corpus.mixture else ""
    return [f"tokenizer: {tokenizer}; blocks of {corpus.block_size} tokens", mixture]


def _described(split: str, shards: Sequence[Shard], config: Config) -> str:
    corpus = config.corpus
    drawn = f"; a fraction of {corpus.fraction:g}, seed {corpus.sample_seed}" if corpus.fraction < 1 else ""
    tokens = f", about {_count(_estimated_tokens(shards))} tokens at DCLM's rate" if _is_dclm(config) else ""
    size = sum(shard.bytes for shard in shards)
    return f"{split}: {len(shards)} shards, {_size(size)}{tokens}, from {shards[0].root}{drawn if split == 'train' else ''}"


def _is_dclm(config: Config) -> bool:
    return any(name in config.corpus.path for name in DCLM_NAMES)


def _estimated_tokens(shards: Sequence[Shard]) -> float:
    """How many tokens DCLM's own shards hold; other files have another rate."""
    kinds = [(shard, kind_of(shard.name)) for shard in shards]
    return DCLM_TOKENS_PER_BYTE * sum(shard.bytes for shard, kind in kinds if kind and kind.compression == "zstd")


def _published(plan: Plan) -> list[str]:
    """What DCLM's published figures give for the sample."""
    corpus = plan.config.corpus
    num_shards = max(1, round((DCLM_SHARDS - (not corpus.validation_path)) * corpus.fraction))
    num_shards = min(num_shards, corpus.max_shards or num_shards)
    tokens = DCLM_TOKENS / DCLM_SHARDS * num_shards
    plan.num_blocks = tokens / corpus.block_size
    return [
        f"by DCLM's published figures ({DCLM_SHARDS} shards of about {_size(DCLM_SHARD_BYTES)}, {_count(DCLM_TOKENS)} tokens):",
        f"train: about {num_shards} shards, {_size(num_shards * DCLM_SHARD_BYTES)}, {_count(tokens)} tokens, from {corpus.path}"
        f"; a fraction of {corpus.fraction:g}, seed {corpus.sample_seed}",
    ]


def _questions(plan: Plan) -> None:
    config, run = plan.config, plan.run
    questions = config.questions
    sets: list[tuple[str, QuestionSetConfig]] = [(held_out.name, held_out) for held_out in questions.held_out]
    lines = [_question_set(plan, name, source) for name, source in sets]
    if questions.documents is None:
        lines.insert(0, _question_set(plan, "facts to learn", questions.facts))
    else:
        lines.insert(0, f"documents to learn: {questions.documents.path}, {questions.documents.augmenter}")
    lines[1:1] = _learned(plan)
    state = plan.state(run.questions, QUESTIONS_KIND, questions_config(config), {}, "questions")
    plan.add("questions, in prepare_corpus", run.questions, state, *lines)


def _learned(plan: Plan) -> list[str]:
    """How many facts or documents there are, and what else their files tell."""
    try:
        counted = count_learned(plan.config, plan.world)
    except PathError:
        return []  # named with the set itself
    except (ValueError, OSError) as error:
        return [plan.obstacle(error)]
    plan.num_learned = counted.number
    documents = plan.config.questions.documents is not None
    there = f"there are {counted.number} {'documents' if documents else 'facts'} to learn"
    return [*([there] if counted.number is not None else []), *counted.told]


def _question_set(plan: Plan, name: str, source: QuestionSetConfig) -> str:
    number = f"{source.num_questions or 'all'} questions"
    try:
        world = Path("{world}") if plan.config.world is not None else None  # it may not be made yet
        path = source.path if "{world}" in source.path else expand(source.path, f"the path of {name}", world)
    except ValueError as error:
        return f"{name}: {plan.obstacle(error)}"
    return f"{name}: {number} of {path} ({'data set on the hub' if path.startswith(HUB) else source.layout})"


def _checkpoint(plan: Plan, architecture: Architecture) -> None:
    config, run, settings = plan.config, plan.run, plan.config.pretraining
    uri = run.checkpoint(architecture)
    state = plan.state(uri, CHECKPOINT_KIND, checkpoint_config(config, architecture), plan.digest(run.corpus))
    if state == "to be made" and storage.list_names(run.training_states(architecture)):
        state = TO_GO_ON
    blocks = settings.num_steps * settings.batch_blocks
    passes = f", {blocks / plan.num_blocks:.2g} passes over the corpus" if plan.num_blocks else ""
    plan.add(
        f"pretrain, {architecture}",
        uri,
        state,
        f"{settings.num_steps} steps of {settings.batch_blocks} blocks: {_count(blocks * config.corpus.block_size)} tokens{passes}",
        f"{config.cluster.num_workers} workers{' with a GPU each' if config.cluster.use_gpu else ''}, {settings.precision}, "
        f"ZeRO {settings.zero_stage}; a state is kept every {settings.checkpoint_every} steps",
    )


def _memory_checkpoint(plan: Plan) -> None:
    _checkpoint(plan, "memory")


def _dense_checkpoint(plan: Plan) -> None:
    _checkpoint(plan, "dense")


def _chosen_checkpoint(plan: Plan) -> None:
    _checkpoint(plan, plan.config.architecture)


def _base_of_method(plan: Plan) -> None:
    _checkpoint(plan, plan.config.method.base)


def _counts(plan: Plan) -> None:
    config, run = plan.config, plan.run
    inputs = plan.digest(run.corpus)
    if storage.has_artifact(run.checkpoint("memory")):
        inputs["checkpoint"] = storage.read_manifest(run.checkpoint("memory")).digest
    state = plan.state(run.counts, COUNTS_KIND, counts_config(config), inputs, "counting")
    most = config.counting.num_batches * config.counting.batch_blocks
    tasks = units(config.counting, int(plan.num_blocks) if plan.num_blocks else most)
    batches = tasks[-1].stop
    done = len(storage.list_names(run.partial_counts)) if state == "to be made" else 0
    plan.add(
        "count_accesses",
        run.counts,
        state,
        f"{batches} batches of {config.counting.batch_blocks} blocks: "
        f"{_count(batches * config.counting.batch_blocks * config.corpus.block_size)} tokens, in {len(tasks)} units"
        f"{f', {done} of them counted before' if done else ''}",
    )


def _finetune(plan: Plan) -> None:
    config = plan.config
    plan.add("finetune", storage.join(plan.run.uri, "learned"), "to be made", f"{config.method.label}: {_stream(plan)}")


def _trials(plan: Plan) -> None:
    config, run = plan.config, plan.run
    seeds = len(config.sweep.seeds)
    lines = [
        f"{space.base.label}: {len(space.settings())} settings x {seeds} seeds = {len(space.settings()) * seeds} trials"
        for space in plan.spaces
    ]
    trials = {
        trial_of(replace(config, method=setting, seed=seed))
        for space in plan.spaces
        for setting in space.settings()
        for seed in config.sweep.seeds
    }
    finished = 0
    try:
        planned, _ = plan_trials(config, plan.spaces)
        finished = len(planned) - len(unfinished(run, planned))
    except ValueError:
        pass  # what trials read is not made yet, as the stages above say
    held_out = ", ".join(source.name for source in config.questions.held_out)
    plan.add(
        "pareto_sweep",
        run.uri,
        "reused" if finished == len(trials) else "to be made",
        f"{len(trials)} trials, {finished} of them finished",
        *lines,
        f"each: {_stream(plan)}; scored before and after on what is learned, {held_out} and {config.evaluation.num_text_blocks} blocks of text",
    )


def _stream(plan: Plan) -> str:
    stream, there = plan.config.stream, plan.num_learned
    if isinstance(stream, DocumentStreamConfig):
        most = stream.num_documents if there is None else min(stream.num_documents, there)
        documents = most or "all"
        return (
            f"the chunks of {documents} documents, {stream.num_passes} times, {stream.num_augmentations} texts a step"
        )
    taken = stream.num_facts if there is None else min(stream.num_facts, there)
    asked = "" if taken == stream.num_facts else f", all there are (stream.num_facts is {stream.num_facts})"
    return (
        f"{taken} facts{asked}, {stream.num_passes} times: {taken * stream.num_passes} steps of "
        f"{stream.num_wordings} wordings of at most {stream.max_length} tokens"
    )


def _scores(plan: Plan) -> None:
    config, state = plan.config, "to be scored"
    if config.checkpoint:
        try:
            storage.read_manifest(storage.require_absolute(config.checkpoint, "--checkpoint"), CHECKPOINT_KIND)
        except ValueError as error:
            state = plan.obstacle(error)
    plan.add("evaluate", config.checkpoint or plan.run.checkpoint(config.architecture), state)


STAGES: dict[str, tuple[Callable[[Plan], None], ...]] = {
    "prepare_corpus": (_corpus, _questions),
    "pretrain": (_corpus, _chosen_checkpoint),
    "count_accesses": (_corpus, _memory_checkpoint, _counts),
    "finetune": (_corpus, _questions, _base_of_method, _counts, _finetune),
    "analyze_slots": (_corpus, _questions, _memory_checkpoint, _counts),
    "evaluate": (_corpus, _questions, _chosen_checkpoint, _scores),
    "pareto_sweep": (_corpus, _questions, _memory_checkpoint, _dense_checkpoint, _counts, _trials),
    "augment_documents": (_corpus, _questions),
    "write_statements": (_questions,),
}


def _count(number: float | None) -> str:
    """With the word that one says."""
    number = number or 0
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:.0f}"


def _size(num_bytes: float) -> str:
    for size, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {word}"
    return f"{num_bytes:.0f} bytes"
