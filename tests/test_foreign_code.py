"""A folder or repository from outside is data: no call of memlm lets its code run, and weights come from safetensors alone."""

import ast
from collections.abc import Iterator

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


def test_every_load_says_that_foreign_code_stays_where_it_is():
    calls = dict(loading_calls())
    assert len(calls) >= 6
    for place, call in calls.items():
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        passed_on = None in given  # as **source, whose content writers/test_hugging_face.py tries
        assert given.get("trust_remote_code") == "False" or passed_on, f"{place} does not pass trust_remote_code=False"
        if "ForCausalLM.from_pretrained" in ast.unparse(call.func):
            assert given.get("use_safetensors") == "True", f"{place} does not pass use_safetensors=True"
