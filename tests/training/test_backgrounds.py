from dataclasses import replace

import pytest
import torch

from memlm.data.mentions import Phrases
from memlm.data.questions.facts import Fact
from memlm.data.questions.records import Question
from memlm.data.tokenizer import train_tokenizer
from memlm.evaluation.suite import HeldOut
from memlm.evaluation.vocabulary import vocabulary_of
from memlm.methods.parts.rehearsal import BackgroundText
from memlm.model.config import ModelConfig
from memlm.model.language_model import build_model, model_config
from memlm.slots.counts import BackgroundCounts
from memlm.training.backgrounds import count_background, name_in, naming_documents, read_background
from tests.support.tiny import MEMORY, background_reads, random_background, tiny_model

DOCUMENTS = (
    "Ada lives in Rome.",
    "Bo lives in Oslo.",
    "Cleo saw Ada.",
    "Dag sings.",
    "Eva sings.",
    "Finn lives in Bern.",
)
ROWS, BLOCK_SIZE = 2, 24


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(list(DOCUMENTS) * 20, vocab_size=280)


@pytest.fixture(scope="module")
def text(tokenizer):
    """A document to a block, twice over."""
    ends = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    blocks = torch.full((len(DOCUMENTS), BLOCK_SIZE), ends["pad_id"])
    for block, document in zip(blocks, DOCUMENTS, strict=True):
        ids = [*tokenizer(document)["input_ids"], ends["eos_id"]] * 2
        block[: len(ids[:BLOCK_SIZE])] = torch.tensor(ids[:BLOCK_SIZE])
    return BackgroundText(blocks=blocks, **ends)


def known(*questions: str) -> list[Question]:
    return [Question(id=text, question=text, answers=("Rome",)) for text in questions]


def model_for(tokenizer):
    shape = ModelConfig(
        num_layers=2, hidden_size=12, num_attention_heads=2, intermediate_size=20, max_positions=64, memory=MEMORY
    )
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    return build_model(model_config(shape, dense=False, vocab_size=len(tokenizer), **ids), seed=0).eval()


def background_of(model, *, num_batches) -> BackgroundCounts:
    return replace(random_background(model, num_batches=num_batches), num_sequences=ROWS * num_batches)


def held_out_of(tokenizer, text, questions) -> HeldOut:
    return HeldOut(
        questions={"known_facts": questions}, text=text.blocks, vocabulary=vocabulary_of(tokenizer, text.blocks)
    )


def counted(source, text, tokenizer, questions, *, num_batches=3) -> BackgroundCounts:
    model = model_for(tokenizer)
    background, held_out = background_of(model, num_batches=num_batches), held_out_of(tokenizer, text, questions)
    facts = [Fact(id="a", statements=DOCUMENTS, questions=())]
    return count_background(source, model, facts, held_out, tokenizer, text=text, background=background)


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Where does Yeideilt Neagreis live?", "Yeideilt Neagreis"),
        ("What kind of work does Anthony Ashley-Cooper, 7th Earl of Shaftesbury do?", "Anthony Ashley-Cooper"),
        ("Ada Byron lives where?", "Byron"),
        ("Who wrote it?", "Who"),
        ("how much is 2 plus 3", ""),
    ],
)
def test_the_name_in_a_question(question, name):
    assert name_in(question) == name


def test_only_documents_that_hold_a_name_are_marked(tokenizer, text):
    naming = naming_documents(text.blocks, Phrases(["Ada", "Oslo"]), tokenizer, eos_id=text.eos_id)
    assert naming.any(dim=1).tolist() == [True, True, True, False, False, False]
    line = torch.cat([text.blocks[3][text.blocks[3] != text.pad_id], text.blocks[0]])[None]
    (marked,) = naming_documents(line, Phrases(["Ada"]), tokenizer, eos_id=text.eos_id)
    first = int((text.blocks[3] != text.pad_id).sum())
    assert not marked[:first].any() and marked[first:].any(), "another document of the same block stays"


def test_a_background_without_tested_entities_leaves_out_their_documents_alone(tokenizer, text):
    others = replace(text, blocks=text.blocks.clone())
    others.blocks[[0, 2]] = text.pad_id
    without = counted("corpus_without_tested", text, tokenizer, known("Where does Ada live?"))
    whole = counted("corpus_without_tested", text, tokenizer, known("Where does Nobody live?"))
    expected = counted("corpus_without_tested", others, tokenizer, known("Where does Nobody live?"))
    assert whole.num_batches == 3 and without.num_tokens == expected.num_tokens < whole.num_tokens
    assert torch.equal(without.batch_frequency, expected.batch_frequency)
    assert torch.equal(without.accesses, expected.accesses) and not torch.equal(without.accesses, whole.accesses)


@pytest.mark.parametrize("source", ["new_facts", "held_out_questions"])
@pytest.mark.parametrize("num_batches", [1, 7])
def test_facts_and_questions_are_counted_in_as_many_full_micro_batches_as_the_run(tokenizer, text, source, num_batches):
    found = counted(source, text, tokenizer, known("Where is Ada?"), num_batches=num_batches)
    assert (found.num_batches, found.num_tokens) == (num_batches, num_batches * ROWS * BLOCK_SIZE)


def test_a_background_of_texts_that_are_missing_is_refused(tokenizer, text):
    with pytest.raises(ValueError, match="names texts of which this run has none"):
        counted("held_out_questions", text, tokenizer, [])


def test_reads_without_tested_entities_are_those_of_the_other_documents_and_found_once(tokenizer, text):
    model = model_for(tokenizer)
    background = background_of(model, num_batches=3)

    def read(text, *names, reads):
        held_out = held_out_of(tokenizer, text, known(*(f"Where does {name} live?" for name in names)))
        return read_background(
            "corpus_without_tested", model, held_out, tokenizer, text=text, background=background, reads=reads
        )

    def of(num_tokens):
        return replace(background_reads(model), num_tokens=num_tokens)

    others = replace(text, blocks=text.blocks.clone())
    others.blocks[[0, 2]] = text.pad_id
    reads = of(10**6)
    without, expected = read(text, "Ada", reads=reads), read(others, "Nobody", reads=of(10**6))
    assert without.num_tokens == expected.num_tokens > 0 and torch.equal(without.slots, expected.slots)
    assert torch.equal(without.weights, expected.weights) and without.sensitivities is not None
    assert read(text, "Ada", reads=reads) is without, "another trial reads nothing anew"
    first = read(text, "Ada", reads=of(1))
    assert 0 < first.num_tokens < without.num_tokens, "no more tokens than the run keeps, in whole micro-batches"


def test_a_set_without_names_and_missing_counts_are_refused(tokenizer, text):
    with pytest.raises(ValueError, match="no question of a held-out set 'known_facts' holds a name"):
        counted("corpus_without_tested", text, tokenizer, known("how much is 2 plus 3"))
    with pytest.raises(ValueError, match=r"background is new_facts.*there are no background counts"):
        count_background("new_facts", tiny_model(), [], None, tokenizer, text=text, background=None)
