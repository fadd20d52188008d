"""Measure how the code reads, and fail when a figure misses its bar: `python -m tests.reading`.

Counted over all Python files that git tracks. Prose is every docstring, attribute docstrings
included, and every comment that has a line to itself.
"""

import ast
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README_BYTES = 10_240
COLUMNS = 100
FILES_PER_FOLDER = 16
LINES_PER_FUNCTION = 60


@dataclass(frozen=True)
class Bar:
    """One count with the places that make it up, and the most that is allowed."""

    what: str
    places: list[str]
    at_most: int
    measured: int | None = None
    """The figure itself where it is not the number of places."""

    @property
    def count(self) -> int:
        return len(self.places) if self.measured is None else self.measured

    @property
    def is_met(self) -> bool:
        return self.count <= self.at_most


def main() -> int:
    bars = measure(python_files(), ROOT / "README.md")
    for bar in bars:
        print(f"{'ok' if bar.is_met else 'MISSED':8}{bar.count:>7}  at most {bar.at_most:>6}  {bar.what}")
        for place in [] if bar.is_met else bar.places:
            print(f"            {place}")
    return int(not all(bar.is_met for bar in bars))


def python_files() -> list[Path]:
    """The Python files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def measure(files: list[Path], readme: Path) -> list[Bar]:
    """All bars for these files. Places are named as file:line, from the folder of the readme."""
    of_docstrings, questions, wide, long_functions = [], [], [], []
    folders: Counter[Path] = Counter()
    for file in files:
        source, name = file.read_text(encoding="utf-8"), str(file.relative_to(readme.parent))
        tree = ast.parse(source)
        for line, text in docstrings(tree):
            first = text.strip().split("\n\n")[0].strip()
            if first.startswith("Of "):
                of_docstrings.append(f"{name}:{line} {first[:60]}")
            if asks(text) and file.name != "__init__.py":
                questions.append(f"{name}:{line} {first[:60]}")
        lines = source.splitlines()
        for line in sorted(prose_lines(source, tree)):
            if len(lines[line - 1]) > COLUMNS:
                wide.append(f"{name}:{line} {len(lines[line - 1])} columns")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LINES_PER_FUNCTION:
                    long_functions.append(f"{name}:{node.lineno} {node.name}, {length} lines")
        folders[file.parent] += file.name != "__init__.py"
    crowded = [
        f"{folder.relative_to(readme.parent)}: {count} files"
        for folder, count in sorted(folders.items())
        if count > FILES_PER_FOLDER
    ]
    return [
        Bar("docstrings that begin with 'Of'", of_docstrings, 0),
        Bar("docstrings that ask a question, outside __init__.py", questions, 0),
        Bar(f"lines of prose over {COLUMNS} columns", wide, 0),
        Bar(f"folders of more than {FILES_PER_FOLDER} Python files", crowded, 0),
        Bar("bytes of README.md", [], README_BYTES, measured=readme.stat().st_size),
        Bar(f"functions over {LINES_PER_FUNCTION} lines", long_functions, 5),
    ]


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string that stands alone as a statement, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def asks(text: str) -> bool:
    """Whether a docstring holds a question: a sentence of prose that ends in a question mark."""
    return any(word.rstrip("\"')`").endswith("?") for word in text.split() if "`" not in word and "://" not in word)


def prose_lines(source: str, tree: ast.Module) -> set[int]:
    """The lines of docstrings and of comments that have their line to themselves."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            found.add(token.start[0])
    return found


if __name__ == "__main__":
    sys.exit(main())
