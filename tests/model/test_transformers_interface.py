"""The requirements of transformers' own tests of models and generation, applied to memlm's memory
model, to the model that a checkpoint's modelling file defines, and to the dense twin. The tests are
our own."""

import copy
import importlib.util
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    StaticCache,
    Trainer,
    TrainingArguments,
)

from memlm.model.standalone import standalone_source
from tests.support.one_rank import LAUNCHED
from tests.support.tiny import EOS, PAD, TWO_SEPARATE, TWO_SHARED, random_batch, state, tiny_model

pytestmark = pytest.mark.slow
FILE = "modeling_memory_llama.py"
KINDS = {
    "one pool for two layers": (TWO_SHARED, False),
    "a pool each": (TWO_SEPARATE, False),
    "dense": (TWO_SHARED, True),
}
BATCH = random_batch(0)
TOKENS, IS_TOKEN = BATCH.tokens, BATCH.is_token.long()
PROMPT = random_batch(1, lengths=(6, 6)).tokens[:, :5]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def modeling(tmp_path_factory):
    path = tmp_path_factory.mktemp("modeling") / FILE
    path.write_text(standalone_source("llama"))
    spec = importlib.util.spec_from_file_location("modeling_memory_llama", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=[*KINDS, "modelling file"])
def model(request, modeling) -> PreTrainedModel:
    if request.param in KINDS:
        memory, dense = KINDS[request.param]
        return tiny_model(memory, dense=dense)
    ours = tiny_model(TWO_SHARED)
    theirs = modeling.MemoryLlamaForCausalLM._from_config(
        modeling.MemoryLlamaConfig(**ours.config.to_dict()), attn_implementation="eager"
    )
    theirs.load_state_dict(ours.state_dict())
    return theirs.eval()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path)
    return tmp_path


def logits(model, **inputs):
    with torch.no_grad():
        return model(**{"input_ids": TOKENS, "attention_mask": IS_TOKEN, "use_cache": False, **inputs}).logits


def generated(model, prompt=PROMPT, **settings):
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **settings}
    mask = settings.pop("attention_mask", torch.ones_like(prompt))
    return model.generate(input_ids=prompt, attention_mask=mask, **settings)


# Loading and saving.


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shard", ["1KB", "1GB"])
def test_saving_in_any_type_and_number_of_files_loads_the_same_model(model, dtype, shard, tmp_path):
    model.to(dtype).save_pretrained(tmp_path, max_shard_size=shard)
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()) and loaded.dtype == dtype
    assert all(torch.equal(value, state(model)[name]) for name, value in loaded.state_dict().items())
    assert logits(loaded.eval()).isfinite().all()
    converted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in converted.parameters()} == {torch.float32}


def test_a_decoder_a_classifier_and_a_language_model_share_their_weights(folder, model, tmp_path):
    decoder = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    assert torch.equal(decoder(TOKENS).last_hidden_state, model.model(TOKENS).last_hidden_state)
    decoder.save_pretrained(tmp_path / "decoder")
    whole, report = AutoModelForCausalLM.from_pretrained(tmp_path / "decoder", output_loading_info=True)
    assert report["missing_keys"] == {"lm_head.weight"}
    assert all(torch.equal(value, state(model)[f"model.{name}"]) for name, value in whole.model.state_dict().items())


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", torch.tensor([0, 1, 2, 0])),
        ("multi_label_classification", torch.eye(4)[:, :3]),
        ("regression", torch.linspace(0, 1, 12).view(4, 3)),
    ],
)
def test_a_classifier_learns_each_kind_of_label(folder, problem, labels, tmp_path):
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, problem_type=problem)
    done = classifier(input_ids=TOKENS, attention_mask=IS_TOKEN, labels=labels)
    assert done.logits.shape == (4, 3)
    done.loss.backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())
    classifier.eval().save_pretrained(tmp_path / "classifier")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier").eval()
    assert torch.equal(again(TOKENS).logits, classifier(TOKENS).logits)
    other = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "classifier", num_labels=5, ignore_mismatched_sizes=True
    )
    assert other(TOKENS).logits.shape == (4, 5)


def test_tied_embeddings_are_stored_once_and_stay_tied(tmp_path):
    config = tiny_model(TWO_SHARED).config
    config.tie_word_embeddings = True
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(logits(loaded), logits(model))


def test_a_configuration_survives_json_and_keeps_unknown_fields(folder, model):
    stored = json.loads((folder / "config.json").read_text())
    assert "_name_or_path" not in stored
    (folder / "config.json").write_text(json.dumps({**stored, "not_ours": 7}))
    config = AutoConfig.from_pretrained(folder, output_attentions=True)
    assert config.not_ours == 7 and config.output_attentions
    again = type(config).from_dict(config.to_dict())
    assert again.to_json_string() == config.to_json_string()
    config.save_pretrained(folder / "again")
    assert json.loads((folder / "again" / "config.json").read_text())["not_ours"] == 7


def test_a_model_built_on_the_meta_device_can_be_initialised(model):
    with torch.device("meta"):
        empty = type(model)._from_config(model.config)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    empty.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.fill_(float("nan"))
    for module in empty.modules():
        module._is_hf_initialized = False
    for parameter in empty.parameters():
        parameter._is_hf_initialized = False
    empty.init_weights()
    assert all(parameter.isfinite().all() for parameter in empty.parameters())


def test_weights_are_given_as_a_state_dict_or_loaded_in_place(folder, model):
    given = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert all(torch.equal(value, state(model)[name]) for name, value in given.state_dict().items())
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager").eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits(fresh), logits(model))


# What a forward pass gives.


def test_hidden_states_attentions_and_tuples(model):
    given = model(TOKENS, output_hidden_states=True, output_attentions=True)
    assert len(given.hidden_states) == 4 and len(given.attentions) == 3
    assert given.attentions[0].shape == (4, 2, 7, 7)
    as_tuple = model(TOKENS, output_hidden_states=True, output_attentions=True, return_dict=False)
    assert torch.equal(as_tuple[0], given.logits)
    (model(TOKENS, labels=TOKENS, output_hidden_states=True).hidden_states[0]).retain_grad()


def test_embeddings_replace_tokens(model):
    embedded = model.get_input_embeddings()(TOKENS)
    assert torch.equal(logits(model), logits(model, input_ids=None, inputs_embeds=embedded))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_pads_on_either_side_and_the_rest_of_a_batch_change_nothing(model, dtype, attention):
    model.set_attn_implementation(attention)
    model = model.to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    pads = torch.full((4, 3), PAD)
    left = torch.cat([pads, TOKENS], dim=1)
    mask = torch.cat([torch.zeros_like(pads), IS_TOKEN], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    shifted = logits(model, input_ids=left, attention_mask=mask, position_ids=positions)[:, 3:]
    whole = logits(model)
    for row in range(4):
        length = int(IS_TOKEN[row].sum())
        torch.testing.assert_close(shifted[row, :length], whole[row, :length], rtol=tolerance, atol=tolerance)
        alone = logits(model, input_ids=TOKENS[row : row + 1, :length], attention_mask=None)
        torch.testing.assert_close(alone[0], whole[row, :length], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TYPES)
def test_eager_and_fused_attention_agree(model, dtype):
    model = model.to(dtype)
    model.set_attn_implementation("eager")
    eager = logits(model, attention_mask=None)
    model.set_attn_implementation("sdpa")
    tolerance = 1e-5 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(logits(model, attention_mask=None), eager, rtol=tolerance, atol=tolerance)


def test_the_vocabulary_grows_and_shrinks(model):
    before = logits(model)
    model.resize_token_embeddings(60)
    assert model.config.vocab_size == 60
    assert torch.equal(logits(model)[..., :50], before)
    model.resize_token_embeddings(50)
    assert torch.equal(logits(model), before)


def test_all_tensors_are_parameters_or_buffers_and_copies_are_independent(model):
    registered = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    for module in model.modules():
        loose = [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert all(id(vars(module)[name]) in registered for name in loose), (type(module), loose)
    copied, before = copy.deepcopy(model), logits(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(logits(model), before)


# Training.


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_every_weight_has_a_gradient_and_checkpointing_changes_none(model, reentrant):
    model.train()
    model(TOKENS, attention_mask=IS_TOKEN, labels=TOKENS, use_cache=False).loss.backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    if reentrant is None:
        model.gradient_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
    model(TOKENS, attention_mask=IS_TOKEN, labels=TOKENS, use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], msg=name)


@pytest.mark.parametrize("adapters", [False, True])
def test_a_trainer_overfits_a_batch_by_the_folder_and_what_it_saves_loads(folder, adapters, tmp_path, monkeypatch):
    """Trainers that are given a folder's name, such as TRL's, look up the class through the
    configuration, then through the Auto class."""
    for name in LAUNCHED:  # otherwise the trainer would wait for other ranks
        monkeypatch.delenv(name, raising=False)
    assert AutoConfig.from_pretrained(folder).architectures[0].endswith("ForCausalLM")
    model = AutoModelForCausalLM.from_pretrained(folder)
    trained = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM")) if adapters else model
    rows = [{"input_ids": row, "labels": row} for row in random_batch(3, lengths=(7, 7, 7, 7)).tokens]
    settings = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=30,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_steps=30,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=trained, args=settings, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] * (0.9 if adapters else 0.5)
    whole = trained.merge_and_unload() if adapters else model
    whole.save_pretrained(tmp_path / "trained")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "trained", attn_implementation="eager").eval()
    whole.set_attn_implementation("eager")
    assert torch.equal(logits(again), logits(whole.eval()))


# Generation.


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False},
        {"do_sample": True, "top_k": 5},
        {"num_beams": 3},
        {"num_beams": 3, "do_sample": True, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=["greedy", "sampled", "beams", "sampled beams", "prompt lookup"],
)
def test_every_generation_strategy_works_in_every_type(model, settings, dtype):
    prompt = PROMPT[:1] if "prompt_lookup_num_tokens" in settings else PROMPT
    text = generated(model.to(dtype), prompt, **settings)
    assert text.shape == (len(prompt) * settings.get("num_return_sequences", 1), 11)
    assert torch.equal(text[0, :5], prompt[0])


@pytest.mark.parametrize("cache", ["dynamic", "static", None])
def test_the_cache_changes_no_text(model, cache):
    plain = generated(model, use_cache=False)
    settings = {"use_cache": False} if cache is None else {"cache_implementation": cache}
    assert torch.equal(generated(model, disable_compile=True, **settings), plain)
    static = StaticCache(config=model.config, max_cache_len=16)
    assert torch.equal(generated(model, past_key_values=static, disable_compile=True), plain)


def test_a_text_is_continued_from_its_cache(model):
    first = model.generate(PROMPT, max_new_tokens=3, min_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    rest = generated(model, first.sequences, past_key_values=first.past_key_values, max_new_tokens=3, min_new_tokens=3)
    assert torch.equal(rest, generated(model))


def test_an_assistant_changes_no_text(model):
    assistant = copy.deepcopy(model)
    assert torch.equal(generated(model, PROMPT[:1], assistant_model=assistant), generated(model, PROMPT[:1]))


def test_pads_on_the_left_change_no_text(model):
    padded = torch.cat([torch.full((2, 3), PAD), PROMPT], dim=1)
    mask = (padded != PAD).long()
    assert torch.equal(generated(model, padded, attention_mask=mask)[:, 8:], generated(model)[:, 5:])


def test_a_prompt_of_embeddings_is_continued_as_its_tokens(model):
    embedded = model.get_input_embeddings()(PROMPT)
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    text = model.generate(inputs_embeds=embedded, attention_mask=torch.ones_like(PROMPT), **settings)
    assert torch.equal(text, generated(model)[:, 5:])


def test_scores_hidden_states_and_the_end(model):
    given = generated(
        model,
        output_scores=True,
        output_logits=True,
        output_hidden_states=True,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    assert len(given.scores) == len(given.logits) == len(given.hidden_states) == len(given.attentions) == 6
    ended = generated(model, min_new_tokens=0, max_new_tokens=20, forced_eos_token_id=EOS)
    assert (ended[:, -1] == EOS).any() or ended.shape[1] == 25


def test_the_last_logits_alone_are_those_of_all(model):
    # The head then multiplies a different number of rows.
    torch.testing.assert_close(logits(model, logits_to_keep=1), logits(model)[:, -1:], rtol=1e-5, atol=1e-5)
