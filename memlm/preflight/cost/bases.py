"""Work of a recipe with a base: what the base is asked and writes before anything is learned, and
the tokens of facts and questions in a base's own tokenizer, which are fewer than in a small one."""

from memlm.config import Config
from memlm.data.config import HeldOutConfig
from memlm.preflight.cost.model import vocabulary_of, work_of

QUESTION_TOKENS, STATEMENT_TOKENS = 15, 18
"""Tokens of a question in its prompt, and of the longest of a step's wordings: EntityQuestions in
SmolLM2's tokenizer, measured. Examples before a question are read once for all."""
SOLUTION_TOKENS, CHOICES_TOKENS, CHAT_TOKENS = 190, 320, 45
"""Tokens of a GSM8K problem with its solution, of HellaSwag's context with each of four endings,
and of a question in a chat, measured the same way."""
SHARE_WRITTEN = 0.8
"""Share of the longest text that a base writes before it ends it."""
SHIPPED_QUESTIONS = 8_000


def base_flops(config: Config) -> float:
    """Operations of the base while the corpus and the questions are made."""
    questions, asking = config.questions, config.questions.known
    chosen = [source.path for source in (questions.facts, *questions.held_out) if source.base_answers != "any"]
    asked = len(set(chosen)) * (asking.num_asked or SHIPPED_QUESTIONS) * (QUESTION_TOKENS + asking.max_new_tokens)
    texts = config.corpus.samples if config.corpus.reads_samples else None
    if texts and texts.questions:
        asked += (texts.questions.num_questions or SHIPPED_QUESTIONS) * (QUESTION_TOKENS + asking.max_new_tokens)
    written = (texts.num_texts + texts.num_validation_texts) * texts.max_tokens * SHARE_WRITTEN if texts else 0.0
    work = work_of(config.model, vocabulary_of(config), QUESTION_TOKENS, "dense")
    return (asked + written) * sum(part.forward for part in work.values())


def scored_tokens(config: Config, num_facts: int) -> float:
    """Tokens that one pass over all sets reads and writes."""
    text = config.evaluation.num_text_blocks * config.corpus.block_size
    answered = num_facts * (2 * QUESTION_TOKENS + config.evaluation.max_new_tokens)
    return text + answered + sum(_tokens_of(config, held_out) for held_out in config.questions.held_out)


def _tokens_of(config: Config, held_out: HeldOutConfig) -> float:
    evaluation = config.evaluation
    lengths = {
        "gsm8k": SOLUTION_TOKENS + evaluation.max_solution_tokens,
        "hellaswag": CHOICES_TOKENS,
        "chat": CHAT_TOKENS + evaluation.max_chat_tokens,
    }
    # Read once for the likelihood of the answer, and once for the model's own.
    answered = 2 * QUESTION_TOKENS + evaluation.max_new_tokens
    return (held_out.num_questions or SHIPPED_QUESTIONS) * lengths.get(held_out.task or held_out.layout, answered)
