"""Programs that are given a checkpoint's folder and know nothing of memlm: where it cannot be
imported, they run the folder's modelling file; after `import memlm`, they run memlm."""

import json
import os
import subprocess
import sys

import pytest

from memlm.data.tokenizer import save_tokenizer, train_tokenizer
from memlm.model.config import ModelConfig
from memlm.model.language_model import build_model, model_config
from tests.support.tiny import MEMORY

pytestmark = pytest.mark.slow
TEXT = "The river Lora was bridged in 1903."
HOSTS = {
    "without memlm": 'import sys; sys.modules["memlm"] = None; TRUST = {"trust_remote_code": True}',
    "after import memlm": "import memlm; TRUST = {}",
}
every_host = pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
MLFLOW_SAVE = """
import mlflow
from transformers import AutoModelForCausalLM, AutoTokenizer
parts = {"model": AutoModelForCausalLM.from_pretrained(FOLDER, **TRUST), "tokenizer": AutoTokenizer.from_pretrained(FOLDER, **TRUST)}
mlflow.transformers.save_model(parts, FOLDER + "/mlflow", task="text-generation", pip_requirements=["torch"])
"""
MLFLOW_LOAD = """
import json, mlflow
pipe = mlflow.transformers.load_model(FOLDER + "/mlflow")
print(json.dumps(pipe(TEXT, max_new_tokens=5, do_sample=False)[0]["generated_text"]))
"""
PIPELINE = """
import json
from transformers import pipeline
pipe = pipeline("text-generation", model=FOLDER, **TRUST)
print(json.dumps(pipe(TEXT, max_new_tokens=5, do_sample=False)[0]["generated_text"]))
"""
HARNESS = """
import sys
sys.argv = ["lm_eval", *ARGUMENTS]
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""


@pytest.fixture
def checkpoint(tmp_path):
    """A folder, and the text that its model writes."""
    tokenizer = train_tokenizer([TEXT.replace("3", str(digit)) for digit in range(10)], vocab_size=300)
    shape = ModelConfig(
        num_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=20,
        max_positions=128,
        initializer_range=0.5,
        memory=MEMORY,
    )
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    model = build_model(model_config(shape, dense=False, vocab_size=len(tokenizer), **ids), seed=5).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path, max_length=128)
    inputs = tokenizer(TEXT, return_tensors="pt")
    written = model.generate(inputs["input_ids"], max_new_tokens=5, do_sample=False)
    return tmp_path, tokenizer.decode(written[0], skip_special_tokens=True)


def run(host: str, code: str, folder, **names: object) -> str:
    """The last line that the code prints."""
    values = {"FOLDER": str(folder), "TEXT": TEXT, **names}
    given = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    command = [sys.executable, "-c", f"{host}\n{given}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return (done.stdout.splitlines() or [""])[-1]


@every_host
def test_a_pipeline_by_the_folder(checkpoint, host):
    folder, written = checkpoint
    assert json.loads(run(host, PIPELINE, folder)) == written


@every_host
def test_mlflow_loads_models_saved_with_or_without_memlm(checkpoint, host):
    pytest.importorskip("mlflow")
    folder, written = checkpoint
    run(host, MLFLOW_SAVE, folder)
    for loader in HOSTS.values():
        assert json.loads(run(loader, MLFLOW_LOAD, folder)) == written


@every_host
def test_lm_evaluation_harness_by_the_folder(checkpoint, host):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'memlm[lm-eval]'")
    folder, _ = checkpoint
    rows = [{"query": "The river", "choices": [" Lora", " was"], "gold": gold} for gold in (0, 1)]
    (folder / "rows.json").write_text(json.dumps(rows))
    task = {
        "task": "rows",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "rows.yaml").write_text(json.dumps(task))  # JSON is YAML
    trust = ",trust_remote_code=True" if "TRUST = {}" not in host else ""
    arguments = ["--model", "hf", "--model_args", f"pretrained={folder},dtype=float32{trust}", "--device", "cpu"]
    arguments += ["--tasks", "rows", "--include_path", str(folder), "--output_path", str(folder / "out")]
    run(host, HARNESS, folder, ARGUMENTS=arguments)
    (results,) = (folder / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["rows"]["acc,none"] == 0.5
