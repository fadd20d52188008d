"""A new method is the two files that CONTRIBUTING.md shows, and no other file is touched."""

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("memlm", "tune_spaces")
SHOWN = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.DOTALL)
PROGRAM = """
import json, sys
import memlm
from memlm.cli import parse
from memlm.methods.registry import METHOD_CONFIGS
from tune_spaces import load_spaces

config = parse("", ["smoke", "--method", "norms", "--method.optimizer.learning-rate", "0.5", "--sweep.methods", "norms"])
settings = load_spaces(config.sweep.methods, config.sweep.scale)[0].settings()
light = "torch" not in sys.modules

import torch
from memlm.data.questions.facts import FactBatch
from memlm.methods.method import LearningInputs
from memlm.training.step import finetune_step
from memlm.training.trial import Trial
from tests.support.tiny import tiny_model

model = tiny_model(dense=True)
before = {name: value.clone() for name, value in model.state_dict().items()}
method = config.method.build(model, LearningInputs(background=None, seed=0))
tokens = torch.arange(12).reshape(2, 6)
finetune_step(method, [FactBatch("fact", tokens, torch.ones_like(tokens, dtype=torch.bool))])
after = method.finish().state_dict()
trial = Trial(method=config.method, stream=config.stream, evaluation=config.evaluation, seed=0)
print(json.dumps({
    "imported from": memlm.__file__,
    "light": light,
    "names": list(METHOD_CONFIGS),
    "labels": [setting.label for setting in settings],
    "rates": [setting.optimizer.learning_rate for setting in settings],
    "moved": [name for name, value in after.items() if not torch.equal(value, before[name])],
    "kept": [name for name, value in after.items() if torch.equal(value, before[name])],
    "title": trial.title,
    "hyperparameters": trial.hyperparameters(),
}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The code, with the files that the guide shows added."""
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in SHOWN.findall((ROOT / "CONTRIBUTING.md").read_text()):
        (folder / name).write_text(code)
    return folder


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True)


def added_or_changed(new: Path, old: Path) -> list[str]:
    files = [str(file.relative_to(new)) for file in sorted(new.rglob("*")) if file.is_file()]
    files = [name for name in files if "__pycache__" not in name]
    return [name for name in files if not (old / name).exists() or not filecmp.cmp(new / name, old / name, False)]


def test_two_files_add_a_method_that_is_parsed_swept_built_and_compared(copy):
    done = run(copy, "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["imported from"].startswith(str(copy)) and found["light"]
    assert "norms" in found["names"]
    assert set(found["labels"]) == {"norms"} and found["rates"] == [1e-3, 1e-2]
    assert found["moved"] and all("norm" in name for name in found["moved"])
    assert found["kept"] and not any("norm" in name for name in found["kept"])
    assert found["title"] == "norms lr0.5" and found["hyperparameters"]["optimizer.learning_rate"] == 0.5
    assert added_or_changed(copy, ROOT) == ["memlm/methods/norms.py", "tune_spaces/norms.py"]


def test_help_and_messages_name_it(copy):
    page = run(copy, "-c", "from memlm.cli import parse; parse('Learn.', ['smoke', '--help'], stage='finetune')").stdout
    assert re.search(r"one of .*norms", page)
    wrong = run(copy, "-c", "from memlm.cli import parse; parse('', ['smoke', '--method', 'norm'])")
    assert wrong.returncode == 2 and "did you mean 'norms'" in wrong.stderr


def test_two_methods_with_the_same_name_are_refused(copy, tmp_path):
    shutil.copytree(copy, tmp_path / "twice")
    shutil.copy(copy / "memlm/methods/norms.py", tmp_path / "twice/memlm/methods/norms_again.py")
    done = run(tmp_path / "twice", "-c", "import memlm.methods.registry")
    assert "memlm.methods.norms and memlm.methods.norms_again both define a method named 'norms'" in done.stderr
