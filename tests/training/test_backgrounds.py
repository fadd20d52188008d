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
from memlm.training.backgrounds import count_background, name_in, naming_documents
from tests.support.tiny import MEMORY, random_background, tiny_model

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


def counted(source, text, tokenizer, questions, *, num_batches=3) -> BackgroundCounts:
    shape = ModelConfig(
        num_layers=2, hidden_size=12, num_attention_heads=2, intermediate_size=20, max_positions=64, memory=MEMORY
    )
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    model = build_model(model_config(shape, dense=False, vocab_size=len(tokenizer), **ids), seed=0).eval()
    background = replace(random_background(model, num_batches=num_batches), num_sequences=ROWS * num_batches)
    held_out = HeldOut(
        questions={"known_facts": questions}, text=text.blocks, vocabulary=vocabulary_of(tokenizer, text.blocks)
    )
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


def test_texts_of_facts_take_no_more_micro_batches_than_the_run(tokenizer, text):
    assert counted("new_facts", text, tokenizer, known("Where is Ada?"), num_batches=1).num_batches == 1


def test_a_set_without_names_and_missing_counts_are_refused(tokenizer, text):
    with pytest.raises(ValueError, match="no question of a held-out set 'known_facts' holds a name"):
        counted("corpus_without_tested", text, tokenizer, known("how much is 2 plus 3"))
    with pytest.raises(ValueError, match=r"background is new_facts.*there are no background counts"):
        count_background("new_facts", tiny_model(), [], None, tokenizer, text=text, background=None)
