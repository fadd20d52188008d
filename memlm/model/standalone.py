"""The modelling file in every checkpoint of a memory model, with which transformers loads the
checkpoint where memlm is not installed.

It is assembled from memlm's own source: the model's classes and everything they use, unchanged,
except for the parts that plain_memory.py has in plain torch. So there is only one copy to
maintain, and every line in the file also runs here. memlm itself never runs a checkpoint's copy,
because it treats a checkpoint's folder as data.
"""

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from memlm.model.decoders.families import PREFIX
from memlm.model.decoders.names import base_names

ROOT = "memlm.model.decoders.classes"
OURS = {
    "AutoConfig": "MemoryConfiguration",
    "AutoModel": "MemoryDecoder",
    "AutoModelForCausalLM": "MemoryHead",
    "AutoModelForSequenceClassification": "MemoryHead",
}
"""Our part of each class, by the Auto class that loads it."""
PLAIN = "memlm.model.plain_memory"
JAXTYPING = re.compile(r'\b(?:Bool|Float|Int)\[Tensor, "[^"]*"\]')
DOCUMENTATION = '''"""A language model with memory layers, for transformers: {name}, with a lookup in a pool of slots in place of some feed-forward networks,
or added to them.

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)

Plain torch, assembled from the source of memlm, which has faster kernels and the methods that teach the model facts. Where memlm is
installed, `import memlm` replaces trust_remote_code and this file. Apache-2.0.
"""'''
CONFIGURATION = """class Memory{base}({ours}, {base}):
    model_type = "{prefix}{family}"
"""
DECODER = """class Memory{base}({ours}, {base}):
    config_class = Memory{AutoConfig}
"""
HEAD = f"""{DECODER}    decoder_class = Memory{{AutoModel}}
"""
CLASSES = {"AutoConfig": CONFIGURATION, "AutoModel": DECODER}
REGISTRATION = """# Some families' classifiers create their decoder through the Auto class.
AutoModel.register(Memory{AutoConfig}, Memory{AutoModel}, exist_ok=True)"""


@functools.cache
def standalone_source(family: str) -> str:
    """The text of the modelling file of a family. It imports only torch, transformers and the
    standard library."""
    bases = base_names(family)
    used, imports = _everything_used()
    imports = {origin: set(names) for origin, names in imports.items()}
    imports.setdefault("transformers", set()).update(bases.values(), ["AutoModel"])
    lines = [f"import {alias}" for alias in sorted(imports.pop("", ()))]
    lines += [f"from {origin} import {', '.join(sorted(imports[origin]))}" for origin in sorted(imports)]
    parts = [part for module, names in used.items() for part in _module(module).parts(names)]
    for auto, base in bases.items():
        definition = CLASSES.get(auto, HEAD)
        parts.append(definition.format(**bases, base=base, ours=OURS[auto], prefix=PREFIX, family=family).rstrip())
    documentation = DOCUMENTATION.format(name=bases["AutoModelForCausalLM"])
    return "\n\n\n".join([f"{documentation}\n\n" + "\n".join(lines), *parts, REGISTRATION.format(**bases)]) + "\n"


@functools.cache
def _everything_used() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Everything that our classes need: names by module of memlm, each module after those that it
    imports from; and the imports from other packages."""
    used: dict[str, set[str]] = {}
    above: dict[str, set[str]] = {}
    imports: dict[str, set[str]] = {}
    wanted = [(ROOT, ROOT, name) for name in dict.fromkeys(OURS.values())]
    while wanted:
        user, module, name = wanted.pop()
        if name in _module(PLAIN).definitions:
            module = PLAIN
        source = _module(module)
        if name in source.definitions:
            if user != module:
                above.setdefault(user, set()).add(module)
            if name not in used.setdefault(module, set()):
                used[module].add(name)
                wanted += [(module, module, each) for each in source.names_in(name)]
        elif name in source.imports:
            origin, alias = source.imports[name]
            if origin.split(".")[0] == "memlm":
                wanted.append((user, origin, name))
            else:
                imports.setdefault(origin, set()).add(alias)
    order = TopologicalSorter({module: sorted(above.get(module, ())) for module in sorted(used)}).static_order()
    return {module: used[module] for module in order}, imports


@dataclass
class _Module:
    """The definitions and imports at the top level of a memlm module, by name."""

    lines: list[str]
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    last_lines: dict[str, int] = field(default_factory=dict)
    """Last line of each definition, including the docstring of an assignment."""
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Module after `from` (empty for a plain import) and text after `import`, by imported name."""

    def names_in(self, name: str) -> list[str]:
        return sorted({node.id for node in ast.walk(self.definitions[name]) if isinstance(node, ast.Name)})

    def parts(self, names: set[str]) -> Iterator[str]:
        """The source text of the definitions, in their order in the module."""
        for name, statement in self.definitions.items():
            if name in names:
                decorators = getattr(statement, "decorator_list", [])
                first = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
                yield "\n".join(self.lines[first - 1 : self.last_lines[name]])


@functools.cache
def _module(name: str) -> _Module:
    """A module read without importing it. Shapes are removed from its annotations, because they
    need jaxtyping, which is rarely installed."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, name
    text = JAXTYPING.sub("Tensor", Path(spec.origin).read_text(encoding="utf-8"))
    module, statements = _Module(text.splitlines()), ast.parse(text).body
    for statement, following in zip(statements, [*statements[1:], None], strict=True):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                origin = (statement.module or "") if isinstance(statement, ast.ImportFrom) else ""
                module.imports[alias.asname or alias.name] = origin, ast.unparse(alias)
        for defined in _names_defined(statement):
            module.definitions[defined] = statement
            documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            last = following if documented and isinstance(statement, ast.Assign | ast.AnnAssign) else statement
            assert last is not None and last.end_lineno is not None
            module.last_lines[defined] = last.end_lineno
    return module


def _names_defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
