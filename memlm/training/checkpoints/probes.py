"""Probe facts: what can be taught to a memory in a base, and be asked in words that it was not
taught in.

Some facts that come with memlm and that the model does not know are learned from statements and
other questions, then asked as their data set asks them, behind solved examples. What was learned is
forgotten again. It shows whether a memory stores facts, and is no measure of a method: one fixed
setting serves every model.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memlm.data.config import QuestionSetConfig
from memlm.data.encoding import encode
from memlm.data.questions import shipped
from memlm.data.questions.facts import fact_stream
from memlm.data.questions.questions import read_set, require_questions, select
from memlm.data.questions.records import Fact, Question
from memlm.data.stating.sets import statable
from memlm.data.stating.statements import facts_of_questions, wordings_of
from memlm.evaluation.question_answering import after_examples, answer_questions, prompts_of
from memlm.methods.config import OptimizerConfig
from memlm.methods.method import FixedParametersMethod, Method
from memlm.methods.parts.sparse_memory_finetuning import SparseMemoryFinetuning
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.model.decoders.families import feed_forward_of
from memlm.model.reader import Reader
from memlm.slots.accesses import num_slots, value_pools
from memlm.training.checkpoints.text_loss import BLOCKS_AT_ONCE, end_of_text, mean_loss
from memlm.training.counting import count_batches
from memlm.training.step import finetune_step

NUM_ASKED = 50
"""Facts that are asked before, to find some that the model does not know."""
NUM_PASSES, NUM_WORDINGS = 8, 6
MAX_TRAINABLE_SLOTS, SHARE_OF_SLOTS = 1000, 16
"""Slots that a step moves, or this share of a small pool."""
STEP_OF_VALUES = 0.05
"""Step of a value, as a share of the root mean square of what the layer's feed-forward network
gives: a rate for values of any scale."""
RATE_OF_DENSE = 1e-3
MAX_ANSWER_TOKENS, QUESTIONS_AT_ONCE = 16, 16
ENTITY_QUESTIONS = "entityquestions"


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What became of the probe facts."""

    num_facts: int
    """Facts that were learned, none of which the model knew."""
    answered: float
    """Share that it answers afterwards, asked in words that it was not taught in."""
    loss: float
    """Nats per token of background text at that time."""


def recall_of_memory(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    num_facts: int,
) -> Recall | None:
    """Recall of facts taught to the memory by sparse finetuning. The blocks are background text.
    The values are put back. None if no probe fits the model."""

    def method() -> Method:
        eos_id = end_of_text(tokenizer)
        counted = ((tokens, torch.ones_like(tokens, dtype=torch.bool)) for tokens in _at_once(model, blocks))
        slots = max(1, min(MAX_TRAINABLE_SLOTS, num_slots(model) // SHARE_OF_SLOTS))
        rate = STEP_OF_VALUES * _scale_of_layers(model, blocks)
        optimizer = OptimizerConfig(kind="row_sparse_adamw", learning_rate=rate)
        config = SparseMemoryConfig(num_trainable_slots=slots, optimizer=optimizer)
        return SparseMemoryFinetuning(model, config, count_batches(model, counted, eos_id=eos_id), seed=0)

    facts = _unknown_facts(model, tokenizer, num_facts)
    if not facts:
        return None
    with _forgetting(model):
        return _recall(method(), model, tokenizer, facts, blocks)


def recall_of_dense(
    model: PreTrainedModel,
    names: Collection[str],
    tokenizer: PreTrainedTokenizerBase,
    blocks: Int[Tensor, "blocks block_size"],
    *,
    num_facts: int,
) -> Recall | None:
    """Recall of the same facts taught to the parameters of these names, which keep them."""
    facts = _unknown_facts(model, tokenizer, num_facts)
    if not facts:
        return None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    method = _Dense(model, OptimizerConfig(kind="adamw", learning_rate=RATE_OF_DENSE))
    return _recall(method, model, tokenizer, facts, blocks)


class _Dense(FixedParametersMethod):
    """Finetuning of what requires a gradient."""


def _recall(
    method: Method,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    blocks: Int[Tensor, "blocks block_size"],
) -> Recall:
    taught = [_in_all_wordings(fact) for fact in facts]
    longest = max(len(encode(tokenizer, text)) for fact in taught for text in fact.statements) + 1
    for batch in fact_stream(
        taught, tokenizer, num_wordings=NUM_WORDINGS, num_passes=NUM_PASSES, max_length=longest, seed=0
    ):
        finetune_step(method, [batch.to(model.device)])
    right = _right(model, tokenizer, [fact.questions[0] for fact in facts])
    loss = mean_loss(model, blocks, eos_id=end_of_text(tokenizer))
    return Recall(num_facts=len(facts), answered=sum(right) / len(right), loss=loss)


def probe_facts(number: int = NUM_ASKED) -> list[Fact]:
    """The first facts of the questions that come with memlm."""
    source = QuestionSetConfig(
        path=str(shipped.FOLDER / "entityquestions.jsonl.zst"),
        layout=ENTITY_QUESTIONS,
        shuffle=True,
        num_questions=number,
        max_malformed_share=0.5,
    )
    questions = require_questions(source.path, select(read_set(source, report=_ignore), source))
    return facts_of_questions(statable(questions, source, report=_ignore))


def _in_all_wordings(fact: Fact) -> Fact:
    """The fact with its other questions, answered, among its statements; never the one that is
    asked."""
    question = fact.questions[0]
    others = [replace(question, question=other) for other in wordings_of(question).questions]
    answered = tuple(f"{prompt} {question.answers[0]}" for prompt in prompts_of(others))
    return replace(fact, statements=(*fact.statements, *answered))


def _unknown_facts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, number: int) -> list[Fact]:
    """The first probe facts that the model cannot tell, of those whose texts fit its positions."""
    if not number or tokenizer.eos_token_id is None:
        return []
    window = model.config.max_position_embeddings
    facts = [fact for fact in probe_facts() if _longest(fact, tokenizer) <= window]
    right = _right(model, tokenizer, [fact.questions[0] for fact in facts]) if facts else []
    return [fact for fact, known in zip(facts, right, strict=True) if not known][:number]


def _longest(fact: Fact, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest text of the fact, or of its question with an answer."""
    texts = [len(encode(tokenizer, text)) + 1 for text in _in_all_wordings(fact).statements]
    return max(*texts, len(encode(tokenizer, prompts_of(fact.questions)[0])) + MAX_ANSWER_TOKENS)


def _right(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> list[bool]:
    """Whether each question is answered, behind solved examples if those fit."""
    shown = _examples()
    longest = max(len(encode(tokenizer, prompt)) for prompt in prompts_of(questions, shown)) + MAX_ANSWER_TOKENS
    if longest > model.config.max_position_embeddings:
        shown = []
    with after_examples(Reader(model, tokenizer), shown) as reader:
        found = answer_questions(
            reader, questions, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=QUESTIONS_AT_ONCE
        ).exact_match
    return [match == 1 for match in found]


def _examples() -> list[Question]:
    source = QuestionSetConfig(path=str(shipped.FOLDER / "entityquestions_examples.jsonl"), layout=ENTITY_QUESTIONS)
    return require_questions(source.path, read_set(source, report=_ignore))


def _scale_of_layers(model: PreTrainedModel, blocks: Int[Tensor, "blocks block_size"]) -> float:
    """Root mean square of what the feed-forward networks at the memory's layers give."""
    squares: list[float] = []
    hooks = [
        feed_forward_of(model, number).register_forward_hook(
            lambda module, given, output: squares.append(float(output.float().square().mean()))
        )
        for number in model.config.memory_layers
    ]
    try:
        with torch.no_grad():
            model(input_ids=next(_at_once(model, blocks)), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return max(1e-6, (sum(squares) / len(squares)) ** 0.5)


def _at_once(model: PreTrainedModel, blocks: Int[Tensor, "blocks block_size"]) -> Iterator[Tensor]:
    return (tokens.to(model.device) for tokens in blocks.split(BLOCKS_AT_ONCE))


@contextmanager
def _forgetting(model: PreTrainedModel) -> Iterator[None]:
    """Put the values back on exit."""
    kept = [(pool, pool.weight.detach().clone()) for pool in value_pools(model)]
    try:
        yield
    finally:
        for pool, values in kept:
            pool.weight.data.copy_(values)


def _ignore(message: str) -> None:
    """Nobody needs to know which of many probes are left out."""
