from dataclasses import replace

import torch

from memlm.data.questions.facts import Fact, fact_batch
from memlm.data.questions.records import Question
from memlm.results.token_reads.statistics import END
from memlm.training.analysis.token_reads import read_texts
from tests.support.tiny import MEMORY, plain_selection, random_background, read_slots, sparse_config
from tests.training.test_finetune import base_model, tokenizer  # noqa: F401

FACT = Fact(
    id="Ada/town",
    statements=("Ada lives in Rome.", "Rome is home to Ada."),
    questions=(Question(id="0", question="Where does Ada live?", answers=("Rome",), fact="Ada/town"),),
)


def read(tokenizer, fact=FACT):  # noqa: F811
    model = base_model(tokenizer, MEMORY)
    background = random_background(model)
    texts = read_texts(model, tokenizer, fact, sparse_config(6), background, slot_counts=(4, 8), max_length=64)
    return model, background, texts


def test_every_token_has_its_reads_and_its_surprise(tokenizer):  # noqa: F811
    model, background, texts = read(tokenizer)
    assert [text.kind for text in texts] == ["statement", "statement", "question"]
    batch = fact_batch(FACT.id, FACT.statements, tokenizer, max_length=64)
    chosen = [set(plain_selection(model, [batch], background, count)) for count in (4, 8)]
    ids = [*tokenizer(FACT.statements[0])["input_ids"], tokenizer.eos_token_id]
    slots = read_slots(model, torch.tensor([ids]))[0].tolist()
    nats = -model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)[range(len(ids) - 1), ids[1:]]
    assert "".join(token.text for token in texts[0].tokens) == FACT.statements[0] + tokenizer.eos_token
    for token, read_by_it in zip(texts[0].tokens, slots, strict=True):
        assert token.num_read == len(set(read_by_it))
        assert token.num_trainable == tuple(len(set(read_by_it) & each) for each in chosen)
    surprise = [token.nats for token in texts[0].tokens]
    assert surprise[0] is None
    assert torch.allclose(torch.tensor(surprise[1:]), nats, atol=1e-4)


def test_parts_and_places_are_those_of_the_words(tokenizer):  # noqa: F811
    _, _, texts = read(tokenizer)
    for text in texts:
        assert "".join(token.text for token in text.tokens if token.part == "entity").strip() == "Ada"
        assert "".join(token.text for token in text.tokens if token.part == "value").strip() == "Rome"
        for name, part in (("name", "entity"), ("value", "value")):
            places = [token.place for token in text.tokens if token.part == part]
            assert places[-1] == f"{name}, last"
            assert len(places) == 1 or places[0] == f"{name}, first"
        assert [token.part for token in text.tokens].count(END) == 1 and text.tokens[-1].part == END
    before = [token.place for token in texts[0].tokens].index("before the value")
    assert texts[0].tokens[before].text.strip() == "in"
    assert "stop" in {token.part for token in texts[0].tokens}


def test_a_text_without_the_name_has_no_token_of_it(tokenizer):  # noqa: F811
    _, _, texts = read(tokenizer, replace(FACT, statements=("It is in Rome.",)))
    assert "entity" not in {token.part for token in texts[0].tokens}
