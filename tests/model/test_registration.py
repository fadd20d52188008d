"""After `import memlm`, Hugging Face's libraries know memlm's models, whichever library was
imported first."""

import subprocess
import sys

import pytest

from tests.support.tiny import tiny_model

TRANSFORMERS = "from transformers import AutoModelForCausalLM"
ORDERS = {
    # Importing a configuration makes transformers import its tables in the middle of that import.
    "memlm first": (
        "import memlm, sys; from transformers import AutoTokenizer, LlamaConfig\n"
        "assert 'memlm.model.language_model' not in sys.modules"
    ),
}
SLOW_ORDERS = {
    "memlm last": f"{TRANSFORMERS}; import peft; import memlm",
    "memlm alone": "import memlm",
    "memlm and the tables": f"import memlm; {TRANSFORMERS}; import peft",
    "memlm between": f"from transformers import AutoConfig; import memlm; {TRANSFORMERS}",
    "the model itself": "import memlm.model.language_model",
    "memlm twice": "import memlm, importlib, transformers; importlib.reload(memlm)",
}
LOAD = """
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from peft import IA3Config, LoraConfig, get_peft_model
assert AutoConfig.from_pretrained(FOLDER).memory_layers == [1]
assert type(AutoModel.from_pretrained(FOLDER)).__name__ == "MemoryLlamaModel"
model = AutoModelForCausalLM.from_pretrained(FOLDER)
assert type(model).__name__ == "MemoryLlamaForCausalLM"
classifier = AutoModelForSequenceClassification.from_pretrained(FOLDER, num_labels=3)
assert type(classifier.model).__name__ == "MemoryLlamaModel"
assert classifier(input_ids=__import__("torch").tensor([[1, 2]])).logits.shape == (1, 3)
for adapters in LoraConfig(), IA3Config():
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(FOLDER), adapters)
    assert adapted.get_nb_trainable_parameters()[0] > 0
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "order",
    [
        *(pytest.param(code, id=name) for name, code in ORDERS.items()),
        *(pytest.param(code, id=name, marks=pytest.mark.slow) for name, code in SLOW_ORDERS.items()),
    ],
)
def test_a_folder_loads_by_the_auto_classes_whichever_is_imported_first(folder, order):
    done = run(f"FOLDER = {str(folder)!r}\n{order}\n{LOAD}")
    assert done.returncode == 0, done.stderr


def test_importing_memlm_imports_nothing_heavy():
    done = run("import memlm, sys; print({name.split('.')[0] for name in sys.modules})")
    assert done.returncode == 0, done.stderr
    assert not {"torch", "transformers", "peft", "numpy"} & eval(done.stdout)
