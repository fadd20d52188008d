"""The modelling file in a checkpoint: with it, transformers loads the folder without memlm and
computes the same."""

import ast
import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from memlm import storage
from memlm.model.decoders.names import auto_map
from memlm.model.language_model import MemoryLlamaForCausalLM, load_checkpoint
from memlm.model.standalone import standalone_source
from memlm.slots.accesses import accesses_of
from tests.support.tiny import MEMORIES, PAD, TWO_SEPARATE, TWO_SHARED, random_batch, state, tiny_model

FILE = "modeling_memory_llama.py"
every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
TOKENS = random_batch(0).tokens
WITHOUT_MEMLM = """
import sys
sys.modules["memlm"] = sys.modules["jaxtyping"] = None  # neither can be imported
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

def load(auto, folder, **settings):
    return auto.from_pretrained(folder, trust_remote_code=True, attn_implementation="eager", **settings).eval()

folder, tokens, results = sys.argv[1], torch.tensor(TOKENS), {}
classifier = load(AutoModelForSequenceClassification, folder, num_labels=3)  # first: it makes its decoder by AutoModel
results["classes"] = classifier(input_ids=tokens).logits
for name, place in (("first", folder), ("again", folder + "/again")):
    slots = []
    model = load(AutoModelForCausalLM, place)
    pools = list(model.model.value_pools)
    for layer in model.memory_layers:  # slots are numbered through all pools
        offset = pools.index(layer.pool) * layer.num_slots
        layer.on_access = lambda found, weights, slots=slots, offset=offset: slots.append(found + offset)
    with torch.no_grad():
        results[f"{name} logits"] = model(input_ids=tokens, use_cache=False).logits
    results[f"{name} slots"] = torch.cat(slots, dim=-1)
    results[f"{name} text"] = model.generate(input_ids=tokens[:1, :4], max_new_tokens=8, do_sample=False)
    model.save_pretrained(folder + "/again")
with torch.no_grad():
    results["hidden"] = load(AutoModel, folder)(input_ids=tokens, use_cache=False).last_hidden_state
save_file({name: value.detach().contiguous() for name, value in results.items()}, folder + "/results")
"""


@pytest.fixture(scope="module")
def modeling(tmp_path_factory):
    """The file as a module in this process."""
    path = tmp_path_factory.mktemp("modeling") / FILE
    path.write_text(standalone_source("llama"))
    spec = importlib.util.spec_from_file_location("modeling_memory_llama", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # the compiler looks for it there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def fresh(modeling, config):
    config = modeling.MemoryLlamaConfig(**config.to_dict())
    return modeling.MemoryLlamaForCausalLM._from_config(config, attn_implementation="eager")


def without_memlm(folder) -> dict[str, torch.Tensor]:
    code = WITHOUT_MEMLM.replace("TOKENS", repr(TOKENS.tolist()))
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "results")


@pytest.mark.parametrize(
    "memory",
    [TWO_SHARED, *(pytest.param(each, marks=pytest.mark.slow) for each in MEMORIES.values() if each is not TWO_SHARED)],
)
def test_without_memlm_logits_slots_and_text_are_the_same(memory, tmp_path):
    model = tiny_model(memory)
    model.save_pretrained(tmp_path)
    theirs = without_memlm(tmp_path)
    for name in ("first", "again"):  # saved by memlm, and then without it
        assert torch.equal(theirs[f"{name} slots"], accesses_of(model, input_ids=TOKENS))
        torch.testing.assert_close(theirs[f"{name} logits"], model(input_ids=TOKENS).logits, rtol=0, atol=1e-5)
        text = model.generate(input_ids=TOKENS[:1, :4], max_new_tokens=8, do_sample=False)
        assert torch.equal(theirs[f"{name} text"], text)
    hidden = model.model(input_ids=TOKENS).last_hidden_state
    torch.testing.assert_close(theirs["hidden"], hidden, rtol=0, atol=1e-5)
    assert theirs["classes"].shape == (len(TOKENS), 3)


@every_memory
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_computes_the_same_bits_as_memlm(memory, dtype, modeling):
    ours = tiny_model(memory).to(dtype)
    theirs = fresh(modeling, ours.config).to(dtype).eval()
    theirs.load_state_dict(ours.state_dict())
    losses = [model(input_ids=TOKENS, labels=TOKENS).loss for model in (ours, theirs)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        scale = mine.grad.abs().max().item() + 1e-12
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(other.grad / scale, mine.grad / scale, rtol=0, atol=tolerance, msg=name)


@every_memory
def test_fresh_weights_equal_those_of_memlm(memory, modeling):
    ours = tiny_model(memory, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        theirs = fresh(modeling, ours.config)
    before, after = state(ours), state(theirs)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "dtype", [torch.float32, *(pytest.param(each, marks=pytest.mark.slow) for each in (torch.bfloat16, torch.float16))]
)
def test_it_is_compiled_as_one_graph_and_exported(dtype, modeling):
    model = fresh(modeling, tiny_model(TWO_SHARED).config).to(dtype).eval()
    plain = model(TOKENS, use_cache=False).logits
    compiled = torch.compile(model, backend="eager", fullgraph=True)(TOKENS, use_cache=False).logits
    exported = torch.export.export(model, (TOKENS,), {"use_cache": False}).module()(TOKENS, use_cache=False).logits
    for logits in (compiled, exported, model(TOKENS, use_cache=False).logits):
        torch.testing.assert_close(logits, plain, rtol=1e-3, atol=1e-3)


def test_it_imports_only_torch_transformers_and_the_standard_library():
    imported = set()
    for node in ast.walk(ast.parse(standalone_source("llama"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"torch", "transformers"}


@pytest.mark.slow
def test_every_process_writes_the_same_text():
    code = (
        "import sys; from memlm.model.standalone import standalone_source; sys.stdout.write(standalone_source('llama'))"
    )
    for seed in (1, 2):  # seeds of the iteration order of sets
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.stdout == standalone_source("llama"), seed


def test_every_name_in_it_is_defined():
    check = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "-"]
    done = subprocess.run(check, input=standalone_source("llama"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_manifest_names_it_and_the_configuration_names_its_classes(tmp_path):
    with storage.write_artifact(str(tmp_path / "checkpoint"), kind="checkpoint", config={}, inputs={}) as draft:
        tiny_model().save_pretrained(draft.path)
    assert FILE in storage.read_manifest(str(tmp_path / "checkpoint")).files
    config = json.loads((tmp_path / "checkpoint/config.json").read_text())
    assert config["auto_map"] == auto_map("llama")
    assert config["architectures"] == ["MemoryLlamaForCausalLM"]


def test_memlm_never_runs_it(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    (tmp_path / FILE).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    loaded = load_checkpoint(tmp_path, torch.device("cpu"))
    assert isinstance(loaded, MemoryLlamaForCausalLM) and not (tmp_path / "ran").exists()
    assert torch.equal(loaded(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)


@pytest.mark.parametrize("dense", [False, True])
def test_checkpoints_without_a_modelling_file_load(dense, tmp_path):
    model = tiny_model(TWO_SEPARATE, dense=dense)
    model.save_pretrained(tmp_path)
    config = model.config.to_dict()  # then the dense twin's was that of a memory model without layers
    config.pop("auto_map", None)
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["MemoryLlamaForCausalLM"]}))
    (tmp_path / FILE).unlink(missing_ok=True)
    loaded = load_checkpoint(tmp_path, torch.device("cpu"))
    assert isinstance(loaded, MemoryLlamaForCausalLM)
    assert torch.equal(loaded(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)


def test_the_dense_twin_is_saved_as_a_llama(tmp_path):
    twin = tiny_model(dense=True)
    twin.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"
    assert not [name for name in config if "memory" in name or name == "auto_map"]
    assert not (tmp_path / FILE).exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert type(loaded) is LlamaForCausalLM and loaded.config.pad_token_id == PAD
    before, after = state(twin), state(loaded)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(loaded(input_ids=TOKENS).logits, twin(input_ids=TOKENS).logits)
    same = {name: value for name, value in twin.config.to_dict().items() if not name.startswith("memory_")}
    same |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "_name_or_path": str(tmp_path)}
    assert {**loaded.config.to_dict(), "dtype": same["dtype"]} == same
