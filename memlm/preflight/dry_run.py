"""Dry run: `--dry-run` prints, stage by stage, what a pipeline would read, make and reuse, with
sizes.

It makes nothing, starts no cluster, and asks no server, except for the list of a corpus's files on
S3 or the hub if there is none yet. If DCLM cannot be listed, the plan uses its published figures
and says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from memlm import artifacts, storage
from memlm.artifacts import trial_of
from memlm.config import Config, varied
from memlm.data.config import DocumentStreamConfig, Part, QuestionSetConfig, StreamChoice
from memlm.data.paths import PathError, expand
from memlm.data.questions.parts import items_of_part, size_of_part
from memlm.hub import HUB
from memlm.jobs.sweep.checkpoint_runs import CheckpointRun, checkpoint_runs
from memlm.jobs.sweep.planned_trials import lone_seed, plan_trials, unfinished
from memlm.jobs.sweep.spaces import MethodSpace
from memlm.kinds import CHECKPOINT_KIND
from memlm.methods.config import MethodConfig
from memlm.model.config import ARCHITECTURES, Architecture
from memlm.outside import visible
from memlm.preflight.cost.minutes import describe_machine, fit_side_by_side, stage_minutes
from memlm.preflight.planned_corpus import plan_corpus
from memlm.preflight.planned_questions import count_learned
from memlm.preflight.run_plan import AHEAD, TO_RESUME, RunPlan, StagePlan
from memlm.run import tracking_uri
from memlm.training.units import read_units, units
from memlm.units import format_count


def run(stage: str, config: Config, spaces: Sequence[MethodSpace] = ()) -> None:
    """Print the plan of a pipeline, with every error that would stop it; ends with status 1 if
    there is one."""
    runs = _runs(config) if stage == "pareto_sweep" else [CheckpointRun(name="", config=config)]
    print(f"{stage}, recipe {config.recipe}: this is a plan; nothing is made.")
    plans = []
    for run in runs:
        plans.append(plan := RunPlan(run.config, spaces))
        for add in STAGES.get(stage, (plan_corpus, _questions)):
            add(plan)
        if run.name:
            print(f"{run.name}, {len(plans)} of {len(runs)}: run {run.config.run_name}")
        _print_stages(plan, stage, described=[part.stage for part in plan.stages] if len(plans) == 1 else _REPEATED)
    try:
        print(f"   tracking: {tracking_uri(config) or 'off'}")
    except ValueError as error:
        print(f"   tracking: {plans[0].obstacle(error)}")
    print(f"   time: {_time(plans)}")
    if obstacles := sum(plan.obstacles for plan in plans):
        problems = "1 problem" if obstacles == 1 else f"{obstacles} problems"
        print(f"   {problems} would stop this run; see 'refused' above")
        raise SystemExit(1)


_REPEATED = ("pareto_sweep",)
"""Stages that are described for every run of a plan; the others differ little from the first's."""


def _runs(config: Config) -> list[CheckpointRun]:
    """The runs of a sweep, in order: for each value of the varied field, for each checkpoint."""
    sweep = config.sweep
    values = [(f"{sweep.vary} {value}", varied(config, value)) for value in sweep.values] or [("", config)]
    return [
        CheckpointRun(
            name=", ".join(filter(None, (name, f"checkpoint {each.name}" if each.name else ""))), config=each.config
        )
        for name, one in values
        for each in checkpoint_runs(one)
    ]


def _print_stages(plan: RunPlan, stage: str, *, described: Sequence[str]) -> None:
    """Print each stage with its state, and the lines that describe it of the stages in
    `described`."""
    for number, part in enumerate(plan.stages, start=1):
        print(f"{number:2} {part.stage}: {part.state}{_first_by(stage, part)}")
        for line in (part.uri, *(part.lines if part.stage in described else ())):
            print(f"     {visible(line)}")


def _first_by(stage: str, part: StagePlan) -> str:
    """Command that makes an artifact which this stage only reads; a sweep makes all of them
    itself."""
    maker = part.stage.partition(",")[0]
    maker = maker if maker in STAGES else "prepare_corpus"
    makes_it = stage in (maker, "pareto_sweep")
    return "" if makes_it or part.state not in AHEAD else f", by {maker}.py before this"


def _time(plans: Sequence[RunPlan]) -> str:
    """Estimated duration of the stages that are still to run, over all runs. What several runs use
    is made once."""
    config = plans[0].config
    ahead: dict[str, float] = {}
    made: set[str] = set()
    total, together = 0.0, ""
    for plan in plans:
        try:
            minutes = stage_minutes(_with_available_facts(plan), _trials_of(plan), num_chunks=plan.num_chunks)
        except ValueError as error:
            return f"unknown: {error}"
        parts = [part for part in plan.stages if part.state in AHEAD and part.uri not in made]
        named = {part.stage: minutes[part.stage] for part in parts if part.stage in minutes}
        if config.model.base:  # nothing is pretrained but the memory
            untrained = "pretrain, dense" if config.pretraining.num_steps else "pretrain"
            named = {stage: number for stage, number in named.items() if not stage.startswith(untrained)}
        made |= {part.uri for part in parts}
        ahead |= {stage: ahead.get(stage, 0.0) + number for stage, number in named.items()}
        total += sum(named.values())
        models = [number for stage, number in named.items() if stage.startswith("pretrain")]
        if len(models) > 1 and fit_side_by_side(config, len(models)):
            total -= min(models)
            together = "; the models are pretrained side by side"
    if not ahead:
        return "a few seconds: all artifacts exist"
    each = ", ".join(f"{stage} {_minutes(number)}" for stage, number in ahead.items())
    days = f" ({total / 1440:,.1f} days)" if total > 1440 else ""
    runs = f" for {len(plans)} runs" if len(plans) > 1 else ""
    return (
        f"about {_minutes(total)} minutes{days}{runs} on {describe_machine(config)} ({each}{together}), "
        "estimated from the recipe"
    )


def _minutes(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _with_available_facts(plan: RunPlan) -> Config:
    """Config whose stream takes no more facts or documents than are available."""
    stream = _streams(plan.config)[0]
    if not plan.num_learned:
        return plan.config
    there = max(1, size_of_part(plan.num_learned, stream.part))
    if isinstance(stream, DocumentStreamConfig):
        return replace(plan.config, stream=replace(stream, num_documents=min(stream.num_documents or there, there)))
    return replace(plan.config, stream=replace(stream, num_facts=min(stream.num_facts, there)))


def _streams(config: Config) -> list[StreamChoice]:
    """The streams of a sweep's trials: of those that are reported and, with tuning seeds, of those
    that choose settings."""
    return list(dict.fromkeys(config.sweep.stream_for(config.stream, seed) for seed in config.sweep.all_seeds))


def _trials_of(plan: RunPlan) -> dict[MethodConfig, int]:
    seeds = len(plan.config.sweep.all_seeds)
    return {setting: seeds for space in plan.spaces for setting in space.settings()}


def _questions(plan: RunPlan) -> None:
    config, questions = plan.config, plan.config.questions
    sets: list[tuple[str, QuestionSetConfig]] = [(held_out.name, held_out) for held_out in questions.held_out]
    lines = [_question_set(plan, name, source) for name, source in sets]
    if questions.updates is not None:
        lines.insert(0, "updates to learn: known facts of the generated world with new answers")
    elif questions.documents is None:
        lines.insert(0, _question_set(plan, "facts to learn", questions.facts))
    else:
        lines.insert(0, f"documents to learn: {questions.documents.path}, {questions.documents.augmenter}")
    lines[1:1] = _learned(plan)
    made = artifacts.questions(config)
    plan.add("questions, in prepare_corpus", made.uri, plan.state(made), *lines)


def _learned(plan: RunPlan) -> list[str]:
    """Number of facts or documents to learn, with notes on their files."""
    try:
        counted = count_learned(plan.config, plan.world)
    except PathError:
        return []  # reported with the set itself
    except (ValueError, OSError) as error:
        return [plan.obstacle(error)]
    plan.num_learned, plan.num_chunks = counted.number, counted.num_chunks
    documents = plan.config.questions.documents is not None
    there = f"{counted.number} {'documents' if documents else 'facts'} to learn"
    return [*([there] if counted.number is not None else []), *counted.notes]


def _question_set(plan: RunPlan, name: str, source: QuestionSetConfig) -> str:
    number = f"{source.num_questions or 'all'} questions"
    try:
        world = Path("{world}") if plan.config.world is not None else None  # the world may not exist yet
        path = source.path if "{world}" in source.path else expand(source.path, f"the path of {name}", world)
    except ValueError as error:
        return f"{name}: {plan.obstacle(error)}"
    return f"{name}: {number} of {path} ({'data set on the hub' if path.startswith(HUB) else source.layout})"


def _checkpoint(plan: RunPlan, architecture: Architecture) -> None:
    config, run, settings = plan.config, plan.run, plan.config.pretraining
    checkpoint = artifacts.checkpoint(config, architecture)
    inputs = {"corpus": artifacts.corpus(config)}
    if config.model.base:
        _attached(plan, architecture)
        if architecture == "dense" or not settings.num_steps:
            return
        inputs |= {"base": artifacts.checkpoint(config, "dense"), "attached": artifacts.attached(config)}
    state = plan.state(checkpoint, **plan.digests(**inputs))
    if state == "to be made" and storage.list_names(run.training_states(architecture)):
        state = TO_RESUME
    blocks = settings.num_steps * settings.batch_blocks
    passes = f", {blocks / plan.num_blocks:.2g} passes over the corpus" if plan.num_blocks else ""
    plan.add(
        f"pretrain, {architecture}",
        checkpoint.uri,
        state,
        f"{settings.num_steps} steps of {settings.batch_blocks} blocks: {format_count(blocks * config.corpus.block_size)} tokens{passes}",
        f"{config.cluster.num_workers} worker{'s' if config.cluster.num_workers > 1 else ''}{' with a GPU each' if config.cluster.use_gpu else ''}, {settings.precision}, "
        f"ZeRO {settings.zero_stage}; saves a state every {settings.checkpoint_every} steps",
    )


def _attached(plan: RunPlan, architecture: Architecture) -> None:
    """The checkpoint of a recipe with a base, before its memory is trained."""
    config = plan.config
    if architecture == "dense":
        checkpoint = artifacts.checkpoint(config, "dense")
        plan.add("pretrain, dense", checkpoint.uri, plan.state(checkpoint), f"the base itself: {config.model.base}")
        return
    memory, base, checkpoint = config.model.memory, artifacts.checkpoint(config, "dense"), artifacts.attached(config)
    plan.add(
        "pretrain, attached" if config.pretraining.num_steps else "pretrain, memory",
        checkpoint.uri,
        plan.state(checkpoint, **plan.digests(corpus=artifacts.corpus(config), base=base)),
        f"{memory.num_slots:,} slots at layers {', '.join(map(str, memory.layers))}, {memory.placement}; keys fitted to the corpus",
    )


def _memory_checkpoint(plan: RunPlan) -> None:
    _checkpoint(plan, "memory")


def _swept_checkpoints(plan: RunPlan) -> None:
    """Those that a method of the sweep starts from."""
    needed = {space.base.base for space in plan.spaces}
    for architecture in ARCHITECTURES:
        if architecture in needed or not needed:
            _checkpoint(plan, architecture)


def _chosen_checkpoint(plan: RunPlan) -> None:
    _checkpoint(plan, plan.config.architecture)


def _base_of_method(plan: RunPlan) -> None:
    _checkpoint(plan, plan.config.method.base)


def _counts(plan: RunPlan) -> None:
    config, counts = plan.config, artifacts.counts(plan.config)
    inputs = plan.digests(corpus=artifacts.corpus(config), checkpoint=artifacts.checkpoint(config, "memory"))
    state = plan.state(counts, **inputs)
    most = config.counting.num_batches * config.counting.batch_blocks
    tasks = units(config.counting, int(plan.num_blocks) if plan.num_blocks else most)
    batches = tasks[-1].stop
    done = len(storage.list_names(counts.units)) if state == "to be made" else 0
    plan.add(
        "count_accesses",
        counts.uri,
        state,
        f"{batches} batches of {config.counting.batch_blocks} blocks: "
        f"{format_count(batches * config.counting.batch_blocks * config.corpus.block_size)} tokens, in {len(tasks)} units"
        f"{f', {done} of them already counted' if done else ''}",
    )


def _reads(plan: RunPlan) -> None:
    config, reads = plan.config, artifacts.reads(plan.config)
    inputs = plan.digests(corpus=artifacts.corpus(config), checkpoint=artifacts.checkpoint(config, "memory"))
    blocks = int(plan.num_blocks) if plan.num_blocks else config.counting.num_batches * config.counting.batch_blocks
    tasks = read_units(config.counting, blocks, config.corpus.block_size)
    tokens = tasks[-1].stop * config.counting.batch_blocks * config.corpus.block_size
    what = f"the reads of {format_count(tokens)} of these tokens, in {len(tasks)} units"
    plan.add("count_accesses, reads", reads.uri, plan.state(reads, **inputs), what)


def _reads_if_used(plan: RunPlan) -> None:
    methods = [space.base for space in plan.spaces] or [plan.config.method]
    if any(method.uses_reads for method in methods):
        _reads(plan)


def _finetune(plan: RunPlan) -> None:
    config = plan.config
    uri, state = storage.join(plan.run.uri, artifacts.LEARNED), "to be made"
    try:
        inputs = artifacts.trial_inputs(config, config.method.base, [config.method])
        learned, trace = artifacts.learned(config, inputs), artifacts.trace(config, inputs)
        uri = learned.uri
        if learned.is_there() and (not config.trace or trace.is_there()):
            state = "reused"
    except ValueError:
        pass  # an input does not exist yet, as the stages above say
    plan.add("finetune", uri, state, f"{config.method.label}: {_stream(plan, config.stream)}")


def _trials(plan: RunPlan) -> None:
    config, run = plan.config, plan.run
    sweep = config.sweep
    seeds = f"{len(sweep.seeds)} seeds"
    if sweep.tuning_seeds:
        seeds = f"({seeds} and {len(sweep.tuning_seeds)} for tuning)"
    lines = [
        f"{space.base.label}: {len(space.settings())} settings x {seeds} = {len(space.settings()) * len(sweep.all_seeds)} trials"
        for space in plan.spaces
    ]
    trials = {
        trial_of(replace(config, method=setting, seed=seed, stream=sweep.stream_for(config.stream, seed)))
        for space in plan.spaces
        for setting in space.settings()
        for seed in sweep.all_seeds
    }
    finished = 0
    try:
        planned, _ = plan_trials(config, plan.spaces)
        finished = len(planned) - len(unfinished(run, planned))
    except ValueError:
        pass  # an input of the trials does not exist yet, as the stages above say
    held_out = ", ".join(source.name for source in config.questions.held_out)
    plan.add(
        "pareto_sweep",
        run.uri,
        "reused" if finished == len(trials) else "to be made",
        f"{len(trials)} trials, {finished} of them finished",
        *lines,
        *_parts(plan),
        lone_seed(config),
        f"each: {_stream(plan, _streams(config)[0])}; scored before and after on the facts learned, {held_out} and {config.evaluation.num_text_blocks} "
        "blocks of text",
    )


def _parts(plan: RunPlan) -> list[str]:
    """How the facts or documents are parted, if there are tuning seeds."""
    if plan.num_learned is None or not plan.config.sweep.tuning_seeds:
        return []
    parts: list[Part] = ["evaluation", "tuning"]
    try:
        numbers = [len(items_of_part(range(plan.num_learned), part)) for part in parts]
    except ValueError as error:
        return [plan.obstacle(error)]
    what = "documents" if plan.config.questions.documents is not None else "facts"
    return [f"{what}: {numbers[0]} to compare methods on, {numbers[1]} to choose their settings on"]


def _stream(plan: RunPlan, stream: StreamChoice) -> str:
    there = None if plan.num_learned is None else size_of_part(plan.num_learned, stream.part)
    if isinstance(stream, DocumentStreamConfig):
        most = stream.num_documents if there is None else min(stream.num_documents, there)
        documents = most or "all"
        return f"{stream.num_passes} passes over the chunks of {documents} documents, {stream.num_augmentations} texts per step"
    taken = stream.num_facts if there is None else min(stream.num_facts, there)
    asked = "" if taken == stream.num_facts else f", all that exist (stream.num_facts is {stream.num_facts})"
    return (
        f"{stream.num_passes} passes over {taken} facts{asked}: {taken * stream.num_passes} steps of "
        f"{stream.num_wordings} wordings of at most {stream.max_length} tokens"
    )


def _scores(plan: RunPlan) -> None:
    config, state = plan.config, "to be scored"
    if config.checkpoint:
        try:
            storage.read_manifest(storage.require_absolute(config.checkpoint, "--checkpoint"), CHECKPOINT_KIND)
        except ValueError as error:
            state = plan.obstacle(error)
    plan.add("evaluate", config.checkpoint or artifacts.checkpoint(config, config.architecture).uri, state)


STAGES: dict[str, tuple[Callable[[RunPlan], None], ...]] = {
    "prepare_corpus": (plan_corpus, _questions),
    "pretrain": (plan_corpus, _chosen_checkpoint),
    "count_accesses": (plan_corpus, _memory_checkpoint, _counts, _reads),
    "finetune": (plan_corpus, _questions, _base_of_method, _counts, _reads_if_used, _finetune),
    "analyze_slots": (plan_corpus, _questions, _memory_checkpoint, _counts, _reads_if_used),
    "evaluate": (plan_corpus, _questions, _chosen_checkpoint, _scores),
    "pareto_sweep": (plan_corpus, _questions, _swept_checkpoints, _counts, _reads_if_used, _trials),
    "augment_documents": (plan_corpus, _questions),
    "write_statements": (_questions,),
}
