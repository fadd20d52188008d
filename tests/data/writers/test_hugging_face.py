import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from memlm.data.tokenizer import train_tokenizer
from memlm.data.writers.budget import Budget
from memlm.data.writers.build import build_writer, revision_of
from memlm.data.writers.config import WriterConfig
from memlm.data.writers.hugging_face import HuggingFaceWriter, find_revision
from memlm.data.writers.interface import Request, WriterError

CPU = torch.device("cpu")
PROMPTS = ["Say one thing.", "Say another thing, and say it at greater length than the first.", "x"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a tokenizer, saved in the usual way."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["Say one thing, then another."] * 5, vocab_size=300)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
        **shape,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def writer_of(saved: Path, **settings: object) -> HuggingFaceWriter:
    config = WriterConfig(model=str(saved), **{"max_new_tokens": 12, **settings})
    return HuggingFaceWriter(config, revision="", device=CPU)


def requests(*seeds: int) -> list[Request]:
    return [Request(prompt=prompt, seed=seed) for seed in seeds or (0,) for prompt in PROMPTS]


def test_greedy_decoding_is_independent_of_the_batch(saved: Path):
    writer = writer_of(saved, temperature=0.0, batch_size=3)
    texts = writer.write(requests())
    for prompt, text in zip(PROMPTS, texts, strict=True):
        tokens = writer.tokenizer(prompt, return_tensors="pt")["input_ids"]
        start = tokens.shape[1]
        with torch.no_grad():
            for _ in range(12):
                following = writer.model(tokens).logits[:, -1:].argmax(-1)
                if following.item() == writer.tokenizer.eos_token_id:
                    break
                tokens = torch.cat([tokens, following], dim=1)
        assert text == writer.tokenizer.decode(tokens[0, start:], skip_special_tokens=True).strip()
    assert writer_of(saved, temperature=0.0, batch_size=1).write(requests()) == texts


def test_samples_are_reproducible_and_differ_between_seeds(saved: Path):
    writer = writer_of(saved)
    first = writer.write(requests(0))
    torch.rand(5)  # other random numbers drawn in the process do not matter
    assert writer.write(requests(0)) == first == writer_of(saved).write(requests(0))
    assert writer.write(requests(1)) != first != writer_of(saved, seed=1).write(requests(0))


def test_writing_leaves_the_process_random_state_unchanged(saved: Path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    writer_of(saved).write(requests())
    assert torch.equal(torch.rand(3), expected)


def test_a_chat_template_is_used_if_present(saved: Path):
    writer = writer_of(saved)
    plain = writer._tokens_of("Hello")
    writer.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} [assistant]"
    assert (
        writer.tokenizer.decode(writer._tokens_of("Hello"))
        == "[user] Hello [assistant]"
        != writer.tokenizer.decode(plain)
    )


def test_chat_marks_in_a_prompt_do_not_end_the_turn(saved: Path):
    writer = writer_of(saved)
    end = writer.tokenizer.eos_token
    writer.tokenizer.chat_template = f"{{% for m in messages %}}{{{{ m.content }}}}{end}{{% endfor %}}[assistant]"
    plain, spelled = writer._tokens_of("Hello."), writer._tokens_of(f"Hello{end}.")
    assert plain.count(writer.tokenizer.eos_token_id) == spelled.count(writer.tokenizer.eos_token_id) == 1
    assert writer.tokenizer.decode(spelled) == f"Hello{end}.{end}[assistant]"


def test_a_prompt_beyond_the_context_is_refused(saved: Path):
    writer = writer_of(saved, max_new_tokens=100)
    with pytest.raises(WriterError, match="max_new_tokens \\(100\\).*128.*chunk_tokens"):
        writer.write([Request(prompt="word " * 50)])


def test_the_revision_of_a_folder_is_a_digest_of_its_files(saved: Path, tmp_path: Path):
    first = find_revision(str(saved), "")
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert find_revision(str(tmp_path), "") == first
    (tmp_path / "config.json").write_text("{}")
    assert find_revision(str(tmp_path), "") != first


def test_a_missing_model_is_refused_with_the_alternatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("/nowhere/model", "memlm-test/there-is-no-such-model"):
        with pytest.raises(WriterError, match=f"{name}.*could not be loaded.*folder.*base_url"):
            find_revision(name, "")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WriterError, match="could not be loaded"):
        HuggingFaceWriter(WriterConfig(model=str(tmp_path)), revision="", device=CPU)


def test_the_config_selects_the_kind_of_writer(saved: Path):
    config = WriterConfig(model=str(saved))
    budget = Budget(max_requests=0, max_tokens=0)
    assert isinstance(build_writer(config, revision=revision_of(config), budget=budget, device=CPU), HuggingFaceWriter)
    with pytest.raises(WriterError, match="writer.model is empty"):
        revision_of(WriterConfig())
    with pytest.raises(ValueError, match="writer.top_p"):
        WriterConfig(top_p=0.0)


def test_provenance_contains_exactly_the_settings_that_determine_a_text():
    from memlm.data.writers.config import EndpointConfig

    one = WriterConfig(model="m", batch_size=1, endpoint=EndpointConfig(base_url="http://a/v1", num_connections=1))
    other = WriterConfig(model="m", batch_size=9, endpoint=EndpointConfig(base_url="http://a/v1", max_requests=5))
    assert one.provenance("r") == other.provenance("r")
    assert WriterConfig(model="m", temperature=0.5).provenance("r") != WriterConfig(model="m").provenance("r")


def copy_of(saved: Path, folder: Path) -> Path:
    shutil.copytree(saved, folder)
    return folder


def test_code_in_a_models_folder_is_neither_run_nor_asked_about(saved: Path, tmp_path: Path, monkeypatch):
    folder = copy_of(saved, tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail(f"asked on the terminal: {question}"))
    with pytest.raises(WriterError, match="could not be loaded.*memlm never does"):
        writer_of(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read(saved: Path, tmp_path: Path):
    folder = copy_of(saved, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(WriterError, match="could not be loaded.*safetensors"):
        writer_of(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": 5}'),
        ("config.json", b"[" * 100_000),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": [["a"]]}}'),
        ("tokenizer_config.json", b'{"tokenizer_class": []}'),
        ("model.safetensors", b"\xff" * 40),
        ("model.safetensors", (2**60).to_bytes(8, "little") + b"{}"),
    ],
)
def test_a_damaged_model_folder_is_reported_in_one_line(saved: Path, tmp_path: Path, name: str, content: bytes):
    folder = copy_of(saved, tmp_path / "model")
    (folder / name).write_bytes(content)
    with pytest.raises(WriterError, match="could not be loaded from a folder or the hub") as refused:
        writer_of(folder)
    assert "\n" not in str(refused.value)
