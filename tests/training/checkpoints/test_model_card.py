from dataclasses import replace

import pytest
import yaml

from memlm.data.config import MixtureConfig
from memlm.data.corpus.config import CorpusConfig
from memlm.model.language_model import NumParameters
from memlm.recipes import RECIPES
from memlm.training.checkpoints.model_card import model_card

SIZES = NumParameters(base=1_234_567, pool=89, active=1_234_600)


def card_of(recipe="smoke", architecture="memory", **corpus):
    config = RECIPES[recipe]()
    return model_card(config.model, replace(config.corpus, **corpus), architecture, SIZES, num_tokens=7_654_321)


def head_of(card):
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_it_names_data_licence_and_use():
    card = card_of()
    assert all(f"\n## {part}\n" in card for part in ("Use", "Data", "Licence"))
    for fact in (
        "1,234,567 parameters",
        "1,024 slots",
        "7,654,321 tokens",
        "512 tokens at most",
        "trust_remote_code=True",
    ):
        assert fact in card
    assert head_of(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "tags": ["memlm", "memory-layers"],
    }


def test_the_dense_twin_needs_no_code():
    card = card_of(architecture="dense")
    assert "trust_remote_code" not in card and "modeling_memory_llama" not in card
    assert head_of(card)["tags"] == ["memlm"]


@pytest.mark.parametrize(
    ("corpus", "licence", "named"),
    [
        ({"path": "/home/anna/client/texts"}, "other", "the corpus `texts`"),
        ({"path": "$TEXTS/wiki"}, "other", "the corpus `$TEXTS/wiki`"),
        ({"path": "s3://bucket/texts"}, "other", "the corpus `s3://bucket/texts`"),
        ({"path": f"hf://datasets/owner/name@{'a' * 40}/part"}, "other", f"owner/name at commit {'a' * 40}"),
        ({"mixture": MixtureConfig(path="/home/anna/facts.csv")}, "other", "the facts of `facts.csv`"),
        ({"tokenizer": "/home/anna/tokenizer"}, "apache-2.0", "the tokenizer `tokenizer`"),
    ],
)
def test_real_text_keeps_its_terms_and_no_local_folder_is_named(corpus, licence, named):
    card = card_of(**corpus)
    assert head_of(card)["license"] == licence and named in card and "anna" not in card
    assert ("the terms of that data" in card) == (licence == "other")


def test_a_data_set_on_the_hub_is_named_where_hubs_look_for_it():
    assert head_of(card_of("paper_1b"))["datasets"] == ["mlfoundations/dclm-baseline-1.0"]


def test_the_same_configuration_gives_the_same_card():
    assert card_of() == card_of() != card_of(path="elsewhere")
    assert CorpusConfig().path.startswith("{world}")
