"""A memory attached to somebody else's model: what is written, and that it learns and unlearns."""

import filecmp
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from memlm import storage
from memlm.cli import run_attach
from memlm.data.tokenizer import train_tokenizer
from memlm.kinds import CHECKPOINT_KIND, PATCH_FILE, PATCH_KIND
from memlm.methods.parts.sparse_memory_finetuning import SparseMemoryFinetuning
from memlm.model.bases.adapter import is_adapter
from memlm.model.bases.base import BaseError
from memlm.model.decoders.families import FAMILIES
from memlm.model.language_model import load_checkpoint
from memlm.training.checkpoints.attaching import attach
from memlm.training.patch import apply_patch, changed_rows, save_patch, stored_weights, undo_patch
from memlm.training.step import finetune_step
from tests.support.families import save_bases, tiny_base
from tests.support.tiny import mean_loss, random_background, random_batch, sparse_config

CPU = torch.device("cpu")
FACTS = [random_batch(seed) for seed in range(5)]
TOKENS = FACTS[0].tokens


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return save_bases(tmp_path_factory.mktemp("bases"))


def learn_facts(checkpoint: str, patch: str) -> torch.nn.Module:
    """Learn five facts with the checkpoint's model, and write the patch."""
    model = load_checkpoint(checkpoint, CPU)
    before = {name: tensor.clone() for name, tensor in stored_weights(model).items()}
    first = float(mean_loss(model, FACTS).detach())
    learner = SparseMemoryFinetuning(model, sparse_config(20, learning_rate=20.0), random_background(model), seed=0)
    for _ in range(4):
        for fact in FACTS:
            finetune_step(learner, [fact])
    learned = learner.finish()
    assert float(mean_loss(learned, FACTS).detach()) < first - 0.05
    changed = changed_rows(before, stored_weights(learned))
    assert len(changed) == 1 and next(iter(changed)).endswith("value_pools.0.weight")
    inputs = {"checkpoint": storage.read_manifest(checkpoint).digest}
    with storage.write_artifact(patch, kind=PATCH_KIND, config={}, inputs=inputs) as draft:
        save_patch(changed, draft.path / PATCH_FILE)
    return learned


def same_files(one: str, other: str) -> bool:
    names = {path.name for path in Path(one).iterdir()}
    assert names == {path.name for path in Path(other).iterdir()}
    return all(filecmp.cmp(Path(one, name), Path(other, name), shallow=False) for name in names)


@pytest.mark.parametrize("form", ["whole", "adapter"])
@pytest.mark.parametrize("family", FAMILIES)
def test_five_facts_are_learned_and_undone_to_the_byte(bases, family, form, tmp_path):
    checkpoint, patch, patched, undone = (str(tmp_path / name) for name in ("base", "patch", "patched", "undone"))
    attach(str(bases[family]), checkpoint, layer=1, slots=81, form=form)
    base = AutoModelForCausalLM.from_pretrained(bases[family], attn_implementation="eager").eval()
    fresh = load_checkpoint(checkpoint, CPU)
    assert torch.equal(fresh(input_ids=TOKENS).logits, base(input_ids=TOKENS).logits)
    learned = learn_facts(checkpoint, patch)
    apply_patch(checkpoint, patch, patched)
    assert torch.equal(load_checkpoint(patched, CPU)(input_ids=TOKENS).logits, learned(input_ids=TOKENS).logits)
    undo_patch(patched, patch, undone)
    assert same_files(undone, checkpoint)
    unlearned = load_checkpoint(undone, CPU)
    assert torch.equal(unlearned(input_ids=TOKENS).logits, base(input_ids=TOKENS).logits)


@pytest.mark.parametrize("form", ["whole", "adapter"])
def test_what_the_base_has_besides_weights_is_written_too(tmp_path, form):
    base = tiny_base("llama", vocab_size=300)
    base.generation_config = GenerationConfig(max_new_tokens=7, eos_token_id=2)
    base.save_pretrained(tmp_path / "base")
    tokenizer = train_tokenizer(["Anna lives in Rome."] * 5, vocab_size=300)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "base")
    made = attach(
        str(tmp_path / "base"), str(tmp_path / "out"), layer=1, slots=81, form=form, key_tokens=128, num_probes=0
    )
    out = tmp_path / "out"
    assert made.has_tokenizer and made.digest == storage.read_manifest(str(out), CHECKPOINT_KIND).digest
    read = AutoTokenizer.from_pretrained(out)
    assert read.get_vocab() == tokenizer.get_vocab() and read.chat_template == tokenizer.chat_template
    assert GenerationConfig.from_pretrained(out).max_new_tokens == 7
    assert load_checkpoint(out, CPU).generation_config.max_new_tokens == 7
    assert is_adapter(out) == (form == "adapter") == (not (out / "config.json").exists())
    card = (out / "README.md").read_text()
    assert "81 slots" in card and "parallel to its feed-forward network" in card
    assert ("modeling_memory_llama.py" in card) == (form == "whole") == (out / "modeling_memory_llama.py").exists()
    assert storage.read_manifest(str(out)).inputs.keys() == {"base"}


def test_defaults_fit_the_base(bases, tmp_path):
    memory = attach(str(bases["phi3"]), str(tmp_path / "small"), layer=0, slots=4).memory
    assert (memory.num_heads, memory.top_k, memory.key_dim, memory.value_dim) == (4, 2, 16, 16)
    memory = attach(
        str(bases["phi3"]),
        str(tmp_path / "asked"),
        layer=2,
        slots=1024,
        num_heads=1,
        key_dim=6,
        value_dim=10,
        precision="bf16",
    ).memory
    assert (memory.num_heads, memory.top_k, memory.key_dim, memory.value_dim) == (1, 16, 6, 10)
    model = load_checkpoint(tmp_path / "asked", CPU)
    assert model.dtype == torch.bfloat16
    base = AutoModelForCausalLM.from_pretrained(bases["phi3"], dtype=torch.bfloat16, attn_implementation="eager")
    assert torch.equal(model(input_ids=TOKENS).logits, base.eval()(input_ids=TOKENS).logits)


def test_the_same_seed_gives_the_same_checkpoint_and_another_gives_other_keys(bases, tmp_path):
    digests = [
        attach(str(bases["llama"]), str(tmp_path / name), layer=1, slots=81, seed=seed).digest
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 3}, "layer is 3, but the base has layers 0 to 2"),
        ({"layer": -1}, "layer is -1"),
        ({"slots": 80}, "slots is 80, which is not a square; .*64 or 81"),
        ({"slots": 0}, "slots is 0"),
        ({"slots": -4}, "slots is -4"),
        ({"top_k": 10}, "top_k is 10, more than"),
        ({"key_dim": 7}, "key_dim is 7; it must be even"),
        ({"slots": 10**16}, "fewer slots, a smaller base"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(bases, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        attach(str(bases["llama"]), str(tmp_path / "out"), **{"layer": 1, "slots": 81, **settings})
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_cannot_be_a_fast_one_is_refused(tmp_path):
    tiny_base("llama").save_pretrained(tmp_path / "base")
    (tmp_path / "base/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NoSuchTokenizer"}))
    with pytest.raises(BaseError, match="its tokenizer cannot be loaded as a fast one") as refused:
        attach(str(tmp_path / "base"), str(tmp_path / "out"), layer=1, slots=81)
    assert "\n" not in str(refused.value)


def test_the_command_says_what_it_made_and_what_is_left_to_do(bases, tmp_path, capsys):
    run_attach([str(bases["gpt2"]), str(tmp_path / "out"), "--layer", "1", "--slots", "81"])
    written = capsys.readouterr().out
    assert "81 slots of 16 at layer 1, parallel" in written and "its keys are random" in written
    assert "the base has no tokenizer" in written
    with pytest.raises(SystemExit, match="1"):
        run_attach([str(bases["gpt2"]), str(tmp_path / "other"), "--layer", "9", "--slots", "81"])
    assert capsys.readouterr().err == (
        "error: layer is 9, but the base has layers 0 to 2; take one of them, of the middle third if unsure\n"
    )
