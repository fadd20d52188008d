"""README, CONTRIBUTING and docs/: links, files, commands, options and figures are real."""

import importlib.util
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from memlm import storage
from memlm.cli import parse, run_plan
from memlm.config import Config
from memlm.data.tokenizer import train_tokenizer
from memlm.methods.registry import METHOD_CONFIGS
from memlm.model.language_model import build_model, model_config
from memlm.preflight.cost.command import take_options
from memlm.recipes import RECIPES, smoke
from tests.evaluation import text_kinds
from tests.reading import README_BYTES
from tests.results import recorded_tables

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {page.relative_to(ROOT).as_posix(): page for page in (*ROOT.glob("*.md"), *DOCS.glob("*.md"))}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    return FENCED.sub("", text)


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- Links and files ---


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name):
    page = PAGES[name]
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(page.read_text())):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.is_file(), f"{name} links to {link}"
        assert not anchor or anchor in anchors_of(file), f"{name} links to {link}, and {file.name} has no such heading"


FOLDERS = ("memlm", "tests", "docs", "pipelines", "tune_spaces", "infra", "recorded")


@pytest.mark.parametrize("name", PAGES)
def test_named_files_of_the_project_exist(name):
    page = PAGES[name]
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", without_blocks(page.read_text()))
    missing = [path for path in named if not any((base / path).exists() for base in (ROOT, page.parent))]
    assert not missing, f"{name} names {missing}"


def test_the_tree_of_the_readme_names_existing_files():
    (tree,) = [block for _, block in FENCED.findall(PAGES["README.md"].read_text()) if block.startswith("pipelines/ ")]
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        indent = len(line) - len(line.lstrip())
        folder = {0: ROOT, 2: ROOT / "memlm"}.get(indent, folder)
        place = folder / name
        assert place.exists(), f"README's tree names {name}"
        if indent == 2 and place.is_dir():
            folder = place
        for file in re.findall(r"\b[\w/]+\.py\b|\b\w+/", line[indent + len(name) :]):
            assert any((base / file).exists() for base in (place, place.parent)), f"README's tree names {file}"


def test_the_index_links_to_every_page():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_the_readme_is_short():
    assert PAGES["README.md"].stat().st_size <= README_BYTES


# --- Commands and options ---


def lines_of_blocks(text: str) -> Iterator[str]:
    """The lines of the blocks without a language, joined where a backslash ends them, with the
    variables that were set before written out."""
    for language, block in FENCED.findall(text):
        variables: dict[str, str] = {}
        for line in [] if language else block.replace("\\\n", " ").splitlines():
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            if assigned := re.fullmatch(r'([A-Z]+)="(.*)"', line):
                variables[assigned[1]] = assigned[2]
            yield line.removeprefix("$ ")


def commands_of(name: str) -> list[list[str]]:
    """The words of each command line that a page shows, in a block or within a sentence."""
    text = PAGES[name].read_text()
    shown = [*lines_of_blocks(text), *re.findall(r"`([^`\n]+)`", without_blocks(text))]
    starts = ("python ", *(f"memlm {command} " for command in SUBCOMMANDS), "make ", "pytest ", ".venv/bin/python ")
    return [shlex.split(line, comments=True) for line in shown if line.startswith(starts) and "OPTIONS" not in line]


SUBCOMMANDS = ("apply", "undo", "adopt", "frontier", "plan", "doctor", "lm-eval")
NUM_PLACES = {"apply": 3, "undo": 3, "adopt": 1, "frontier": 3}
"""Words behind a subcommand: places, and options with theirs."""


def require_real(command: list[str]) -> None:
    """Fail for a command that names what there is not."""
    program, first, *rest = (Path(command[0]).name, *command[1:])
    if program == "make":
        require_target(first, rest)
    elif program == "pytest":
        assert (ROOT / first).exists(), f"there is no {first}"
    elif program == "memlm":
        assert len(rest) == NUM_PLACES.get(first, len(rest)), f"memlm {first} takes {NUM_PLACES[first]} places"
        if first == "plan":
            parse("", take_options(rest)[1])
        elif first == "doctor":
            parse("", re.sub(r"--gpus \d+|--json", "", shlex.join(rest)).split())
    elif first == "-m":
        assert importlib.util.find_spec(rest[0]), f"there is no module {rest[0]}"
        assert all((ROOT / word).exists() for word in rest[1:] if "/" in word), f"{rest} names a file that is not there"
    else:
        assert (ROOT / first).is_file(), f"there is no {first}"
        if first.startswith("pipelines/"):
            parse("", [*rest, "--dry-run"], stage=Path(first).stem)


def require_target(first: str, rest: list[str]) -> None:
    if first == "-C":
        folder, *targets = rest
    else:
        folder, targets = ".", [first]
    assert targets[0] in re.findall(r"^([\w./-]+):", (ROOT / folder / "Makefile").read_text(), re.MULTILINE)
    if targets == ["pareto"]:
        given = [shlex.split(word.removeprefix("ARGS=")) for word in rest if word.startswith("ARGS=")]
        parse("", [*itertools.chain(*given), "--dry-run"], stage="pareto_sweep")


@pytest.mark.parametrize("name", PAGES)
def test_shown_commands_are_accepted(name):
    for command in commands_of(name):
        try:
            require_real(command)
        except SystemExit as refused:
            pytest.fail(f"{name} shows {shlex.join(command)}, which ends with status {refused.code}")


def test_an_unaccepted_command_is_found():
    for line in (
        *("make paretto", "python pipelines/finetun.py", "python pipelines/finetune.py laptp", "memlm apply a b"),
        *("python pipelines/finetune.py --seeed 3", "make pareto ARGS='--world.sead 7'", "memlm plan paper_1b --gpu 8"),
        *("python -m tests.nothing", "pytest tests/nothing"),
    ):
        with pytest.raises((AssertionError, SystemExit)):
            require_real(shlex.split(line))


def options_of(kind: Any) -> Iterator[str]:
    """The dotted fields of a config, and those of every method's config, as options."""
    if is_dataclass(kind):
        for each in fields(kind):
            name = each.name.replace("_", "-")
            yield name
            kinds = METHOD_CONFIGS.values() if name == "method" else [get_type_hints(kind)[each.name]]
            yield from (f"{name}.{below}" for part in kinds for below in options_of(part))
    for part in get_args(kind):
        yield from options_of(part)


OPTIONS = {f"--{name}" for name in options_of(Config)}


@pytest.mark.parametrize("name", PAGES)
def test_named_options_exist(name):
    named = re.findall(r"`(--[a-z-]+(?:\.[a-z.-]*[a-z])+)", PAGES[name].read_text())
    missing = [each for each in named if each not in OPTIONS and not any(o.startswith(f"{each}.") for o in OPTIONS)]
    assert not missing, f"{name} names {missing}"


def test_every_recipe_and_pipeline_is_explained():
    page = PAGES["docs/pipelines.md"].read_text()
    assert [recipe for recipe in RECIPES if f"`{recipe}`" not in page] == []
    assert [each.name for each in (ROOT / "pipelines").glob("*.py") if f"pipelines/{each.name}" not in page] == []


def test_explained_messages_occur_in_the_code():
    code = "\n".join(file.read_text() for file in (ROOT / "memlm").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # a message over several lines
    (table,) = re.findall(r"^## What the messages mean$(.*)", PAGES["docs/your-own-facts.md"].read_text(), re.M | re.S)
    messages = [
        message for row in re.findall(r"^\| (`.*?`) \|", table, re.M) for message in row.strip("`").split("`, `")
    ]
    assert len(messages) == 10
    for message in messages:
        assert all(part in code for part in re.split(r" \.\.\. |\d+", message)), f"no message says {message!r}"


# --- Figures ---


@pytest.mark.parametrize("name", PAGES)
def test_tables_of_recorded_frontiers_are_theirs(name):
    """`python -m tests.results.recorded_tables` writes them."""
    text = PAGES[name].read_text()
    assert recorded_tables.with_tables(text) == text
    comments = text.count("<!-- docs/recorded/")
    assert len(recorded_tables.PLACED.findall(text)) == comments, "a comment says what no table shows"


def test_a_changed_cell_of_a_table_is_found():
    text = PAGES["docs/results.md"].read_text()
    cell = re.search(r"-->\n\n\|.*\n\|.*\n\| 0\.5 \| (\S+)", text)[1]
    changed = text.replace(f"| 0.5 | {cell}", "| 0.5 | 0.0%", 1)
    assert changed != text == recorded_tables.with_tables(changed)


def test_the_table_of_chaos_matches_the_record():
    recorded = json.loads((DOCS / "recorded" / "chaos.json").read_text())["rows"]
    page = PAGES["docs/faults.md"].read_text()
    for row in recorded:
        assert f"| `{row['what']}` | {row['survived']:,} of {row['tries']:,} | {row['seconds']:.0f} |" in page


def test_the_plan_of_the_papers_recipe_matches_the_command(capsys):
    shown = [
        block.removeprefix("$ memlm plan ").partition("\n")
        for _, block in FENCED.findall(PAGES["docs/plan-paper.md"].read_text())
    ]
    assert len(shown) == 3
    for arguments, _, printed in shown:
        run_plan(shlex.split(arguments))
        assert capsys.readouterr().out.strip() == printed.strip()


# --- Python ---


def python_blocks(name: str) -> list[str]:
    return [block for language, block in FENCED.findall(PAGES[name].read_text()) if language == "python"]


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    text = ["Question: Where was Ada Bell born?\nAnswer: Lima"] * 20
    tokenizer = train_tokenizer(text, vocab_size=300)
    ids = {"eos_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
    model = build_model(model_config(smoke().model, dense=False, vocab_size=len(tokenizer), **ids), seed=0)
    with storage.write_artifact(str(tmp_path / "patched"), kind="checkpoint", config={}) as draft:
        model.save_pretrained(draft.path)
        tokenizer.save_pretrained(draft.path)
    monkeypatch.chdir(tmp_path)
    checkpoint, layer = python_blocks("README.md")
    exec(checkpoint, {})
    assert "Question: Where was Ada Bell born?" in capsys.readouterr().out
    names: dict[str, Any] = {}
    exec(layer, names)
    assert names["output"].shape == (2, 10, 256) and names["output"].isfinite().all()


@pytest.mark.parametrize("recording", sorted((DOCS / "recorded").glob("text-kinds-*.json")), ids=lambda path: path.stem)
def test_the_tables_of_text_by_kind_of_token_are_the_recorded_ones(recording):
    assert text_kinds.table(json.loads(recording.read_text())) in PAGES["docs/results.md"].read_text()
