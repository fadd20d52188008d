"""A recipe with a base: the base's own checkpoint, its tokenizer, and the memory attached to it."""

from dataclasses import replace

import pytest
import torch

from memlm import artifacts, storage
from memlm.data.corpus.config import SamplesConfig
from memlm.data.corpus.corpus import Part, open_corpus, write_corpus, write_part
from memlm.data.corpus.listing import Shard
from memlm.data.corpus.shards import write_shard
from memlm.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from memlm.identity import identity
from memlm.jobs.preparing.base_checkpoints import make_base, make_with_memory, tokenizer_of_base
from memlm.jobs.pretrain import failed_gates
from memlm.jobs.pretrain import run as pretrain
from memlm.jobs.pretrain_base import PretrainingOfBase
from memlm.kinds import BLOCKS_FILE
from memlm.model.bases.base import BaseError
from memlm.model.language_model import load_checkpoint
from memlm.recipes import RECIPES
from memlm.run import RunError
from memlm.stages import require_possible
from memlm.training.config import PretrainingConfig
from memlm.training.pretrain import pretrain as pretrain_steps
from tests.jobs.running import smoke
from tests.support.asking import new_model, new_tokenizer
from tests.support.families import tiny_base

CPU = torch.device("cpu")
TEXTS = [f"{name} lives in {place}." for name in ("Anna", "Bo", "Carla", "Eve") for place in ("Rome", "Oslo", "Lima")]


@pytest.fixture
def config(tmp_path):
    """A run of a base whose tokenizer pads with the end of text, and has a token for every row."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=280)
    tokenizer.pad_token = tokenizer.eos_token
    tiny_base("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = ("--model.base", str(tmp_path / "base"), "--model.key-tokens", "1024", "--model.num-probes", "0")
    memory = (
        "--model.memory.placement",
        "parallel",
        "--model.memory.num-half-keys",
        "9",
        "--model.memory.key-dim",
        "8",
    )
    method = ("--method.num-trainable-slots", "20", "--pretraining.num-steps", "0")
    return replace(smoke(tmp_path / "runs", "--tracking", "off", *options, *memory, *method), world=None)


def pack_corpus(config, folder):
    """The corpus of the run, as prepare_corpus writes it."""
    write_shard(str(folder / "text" / "a.jsonl"), [{"text": text} for text in TEXTS * 60])
    shard = Shard(root=str(folder / "text"), name="a.jsonl", bytes=1)
    tokenizer = tokenizer_of_base(config)
    blocks = artifacts.blocks(config, 0, shard, tokenizer="")
    with blocks.write() as draft:
        number, accounting = write_part(
            shard.uri, draft.path / BLOCKS_FILE, tokenizer, text_field="text", block_size=64, max_malformed_share=0
        )
    part = Part(name=artifacts.blocks_name(0), digest=blocks.digest, num_blocks=number, num_documents=1)
    with artifacts.corpus(config).write() as draft:
        write_corpus(draft.path, tokenizer, train=[part], validation=[part], accounts={"a": accounting}, quarantined={})


def test_the_dense_twin_is_the_base_and_the_memory_one_starts_with_its_logits(config, tmp_path):
    base = make_base(config)
    assert base.uri == artifacts.checkpoint(config, "dense").uri and base.is_made()
    pack_corpus(config, tmp_path)
    uri = pretrain(config)
    gates = storage.read_manifest(uri).details["gates"]
    assert gates["usage"] == 1 and gates["loss"] == gates["base_loss"]
    assert storage.read_manifest(uri).inputs.keys() == {"base", "corpus"}
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        wanted = load_checkpoint(tmp_path / "base", CPU)(input_ids=tokens).logits
        assert torch.equal(load_checkpoint(base.open(), CPU)(input_ids=tokens).logits, wanted)
        assert torch.equal(
            load_checkpoint(artifacts.checkpoint(config, "memory").open(), CPU)(input_ids=tokens).logits, wanted
        )
    digest = storage.read_manifest(uri).digest
    assert pretrain(config) == uri and storage.read_manifest(uri).digest == digest


def own_twin(config, run: str, *, seed=0):
    """A dense model of memlm's own as the checkpoint of a run, and a config whose base it is."""
    tokenizer = new_tokenizer()
    made = replace(config, run_name=run, model=replace(config.model, base=""), pretraining=PretrainingConfig())
    with artifacts.checkpoint(made, "dense").made_from().write() as draft:
        new_model(tokenizer, dense=True, seed=seed).save_pretrained(draft.path)
        save_tokenizer(tokenizer, draft.path)
    seeded = replace(config.pretraining, seed=seed)
    return replace(config, model=replace(config.model, base="{runs}/twin-{seed}/checkpoint-dense"), pretraining=seeded)


def test_a_dense_twin_of_another_run_gets_a_memory(config, tmp_path):
    config = own_twin(config, "twin-7", seed=7)
    base = make_base(config)
    details = base.manifest().details
    assert details["base"] == "{runs}/twin-7/checkpoint-dense", "the storage may move"
    pack_corpus(config, tmp_path)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        wanted = new_model(new_tokenizer(), dense=True, seed=7)(input_ids=tokens).logits
        given = load_checkpoint(storage.open_artifact(pretrain(config)), CPU)(input_ids=tokens).logits
    assert torch.allclose(given, wanted, atol=1e-6)
    assert tokenizer_of_base(config).get_vocab() == new_tokenizer().get_vocab()
    assert make_base(config).digest == base.digest


def test_a_run_without_a_dense_twin_is_refused(config):
    there = own_twin(config, "twin-7", seed=7)
    missing = replace(there, pretraining=replace(there.pretraining, seed=8))
    with pytest.raises(
        RunError, match=r"twin-8/checkpoint-dense does not exist; make it by the sweep of the run twin-8"
    ):
        make_base(missing)


def test_the_corpus_pads_with_a_token_that_has_a_row_and_means_nothing_else(config):
    make_base(config)
    tokenizer = tokenizer_of_base(config)
    assert len(tokenizer) == load_checkpoint(config.model.base, CPU).config.vocab_size
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)


def test_a_pad_token_without_a_row_of_its_own_is_kept_when_the_corpus_is_read(config, tmp_path):
    make_base(config)
    tokenizer = tokenizer_of_base(config)
    tokenizer.pad_token = tokenizer.bos_token  # as where no token is to spare
    save_tokenizer(tokenizer, tmp_path / "saved")
    loaded = load_tokenizer(str(tmp_path / "saved"))
    assert len(loaded) == len(tokenizer) and loaded.pad_token_id != loaded.eos_token_id


def test_another_base_under_the_same_name_is_noticed(config):
    make_base(config)
    tiny_base("llama", vocab_size=280, seed=1).save_pretrained(config.model.base)
    with pytest.raises(RunError, match="made from a different base"):
        make_base(config)


def test_a_base_is_named_without_the_shape_of_a_pretrained_model(config):
    assert identity(config.model, of="dense") == {"base": config.model.base}
    assert identity(config.model, of="memory").keys() == {"base", "memory", "key_tokens"}


def test_a_base_without_a_tokenizer_is_refused(config, tmp_path):
    tiny_base("llama").save_pretrained(tmp_path / "bare")
    with pytest.raises(BaseError, match="it has no tokenizer, and a recipe reads text"):
        make_base(replace(config, model=replace(config.model, base=str(tmp_path / "bare"))))


def test_settings_that_a_base_excludes_are_refused(config):
    with pytest.raises(ValueError, match=r"corpus.tokenizer is 'gpt2', and model.base reads with its own"):
        replace(config, corpus=replace(config.corpus, tokenizer="gpt2"))
    with pytest.raises(ValueError, match="model.key_tokens is -1"):
        replace(config.model, key_tokens=-1)


def test_only_a_base_writes_samples_and_only_samples_are_read_as_such(config):
    sampled = replace(config, corpus=replace(config.corpus, path="{samples}/train", samples=SamplesConfig()))
    plain = replace(with_steps(sampled), model=replace(sampled.model, base=""))
    with pytest.raises(RunError, match="there is no model.base to write them"):
        require_possible("prepare_corpus", plain)
    with pytest.raises(RunError, match="corpus.samples says not to let the base write"):
        require_possible("prepare_corpus", replace(sampled, corpus=replace(sampled.corpus, samples=None)))


def with_steps(config, **settings):
    small = {"num_steps": 3, "batch_blocks": 4, "micro_batch_blocks": 4, "warmup_steps": 1, **settings}
    return replace(config, pretraining=replace(config.pretraining, **small))


def train(config, *, control=False):
    """What the workers do with a base, without Ray."""
    from memlm.training.engine import Engine

    checkpoint = (artifacts.control(config) if control else artifacts.checkpoint(config, "memory")).pinned()
    work = PretrainingOfBase(config=config, inputs=checkpoint.digests(), is_control=control)
    corpus = open_corpus(artifacts.corpus(config).uri)
    engine = Engine(work.model(CPU), config.pretraining)
    tokens = {"eos_id": corpus.tokenizer.eos_token_id, "pad_id": corpus.tokenizer.pad_token_id}
    teacher = work.teacher(engine)
    list(pretrain_steps(engine, corpus.train_blocks(), config.pretraining, first_step=0, teacher=teacher, **tokens))
    weights = engine.trained_weights()
    with checkpoint.write() as draft:
        found = work.write(draft, weights, corpus, device=CPU)
    return checkpoint, found


def test_a_trained_memory_becomes_a_checkpoint_with_its_gates(one_rank, config, tmp_path):
    config = with_steps(config, distillation_weight=0.1)
    base = make_base(config)
    pack_corpus(config, tmp_path)
    attached = make_with_memory(config)
    assert attached.uri.endswith("checkpoint-attached") and attached.is_made()
    checkpoint, measured = train(config)
    assert checkpoint.is_made() and checkpoint.manifest().inputs.keys() == {"base", "attached", "corpus"}
    gates = checkpoint.manifest().details["gates"]
    assert gates["loss"] == measured.loss < gates["zeroed_loss"] < measured.base_loss
    assert gates["failed"] == failed_gates(config)
    folder = checkpoint.open()
    model, own = load_checkpoint(folder, CPU), load_checkpoint(base.open(), CPU)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in own.state_dict().items())
    assert load_tokenizer(str(folder)).eos_token == tokenizer_of_base(config).eos_token
    assert "It was trained on 768 tokens" in (folder / "README.md").read_text()
    control, beside = train(config, control=True)
    assert control.manifest().details["control"]["loss"] == beside.loss < beside.base_loss == measured.base_loss
    assert "a dense network of" in beside.lines()[0]


def test_steps_name_a_trained_memory_and_nothing_else(config):
    untrained, trained = (artifacts.checkpoint(each, "memory") for each in (config, with_steps(config)))
    assert untrained == artifacts.attached(config) and untrained.uri == trained.uri
    assert untrained.identity.keys() == {"architecture", "model", "seed"}
    assert trained.identity.keys() == {"architecture", "model", "pretraining"}
    assert artifacts.attached(with_steps(config)).identity == untrained.identity
    assert artifacts.checkpoint(config, "dense") == artifacts.checkpoint(with_steps(config), "dense")
    assert artifacts.control(with_steps(config)).identity != trained.identity
    assert "keys" not in trained.identity["pretraining"]
    fixed = artifacts.checkpoint(with_steps(config, keys="fixed"), "memory")
    assert fixed.identity["pretraining"]["keys"] == "fixed"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_steps": 0}, "pretraining.num_steps is 0; it must be at least 1, unless a base gets a memory"),
        ({"keys": "fixed"}, "pretraining.keys is 'fixed', and there is no model.base"),
        ({"distillation_weight": 0.5}, "pretraining.distillation_weight is 0.5, and there is no model.base"),
        ({"control": True}, "pretraining.control is True, and there is no model.base"),
    ],
)
def test_settings_for_a_base_need_one(changes, message):
    config = RECIPES["smoke"]()
    with pytest.raises(ValueError, match=message):
        replace(config, pretraining=replace(config.pretraining, **changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pool_split": 2}, "pretraining.pool_split is 2, and the memory of a base is trained whole"),
        ({"num_steps": 0, "control": True}, "pretraining.control is True, and pretraining.num_steps is 0"),
    ],
)
def test_a_base_is_trained_in_no_other_way(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, pretraining=replace(config.pretraining, **changes))
