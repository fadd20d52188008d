"""A folder or repository from outside is data: memlm never runs its code, and reads weights only
from safetensors."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.jobs.running import ROOT

LOADERS = ("from_pretrained", "from_config", "load_dataset")


def loading_calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted((ROOT / "memlm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if name in LOADERS:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_load_disables_foreign_code():
    calls = dict(loading_calls())
    assert len(calls) >= 6
    for place, call in calls.items():
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        passed_on = None in given  # as **source, whose content writers/test_hugging_face.py tries
        assert given.get("trust_remote_code") == "False" or passed_on, f"{place} does not pass trust_remote_code=False"
        if "ForCausalLM.from_pretrained" in ast.unparse(call.func):
            assert given.get("use_safetensors") == "True", f"{place} does not pass use_safetensors=True"


LOADS = (
    "AutoConfig.from_pretrained(FOLDER, trust_remote_code=True)",
    "AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)",
    "AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)",
    "GenerationMixin.load_custom_generate(None, FOLDER, trust_remote_code=True)",
)


@pytest.mark.slow
def test_no_code_of_a_folder_runs_in_lm_eval_even_if_trusted(tmp_path):
    folder, marker = tmp_path / "model", tmp_path / "ran"
    (folder / "custom_generate").mkdir(parents=True)
    code = (
        "from transformers import PreTrainedConfig\n"
        f"open({str(marker)!r}, 'w').close()\n"
        "class C(PreTrainedConfig):\n    model_type = 'own'\n"
        "def generate(): ...\n"
    )
    (folder / "own.py").write_text(code)
    (folder / "custom_generate" / "generate.py").write_text(code)
    auto_map = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.C"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["own.C", None]}}))
    script = "\n".join(
        [
            "from memlm.cli import UsageError, refuse_code_of_folders",
            "refuse_code_of_folders()",
            "from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationMixin",
            f"FOLDER = {str(folder)!r}",
            *(f"try: {load}\nexcept UsageError as error: print(error)" for load in LOADS),
        ]
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    refused = [
        line for line in done.stdout.splitlines() if line.startswith("the model's folder asks to run its own code")
    ]
    assert len(refused) == len(LOADS) and not marker.exists()
