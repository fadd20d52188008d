"""Upload of a job: the code, and nothing else from the checkout."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.infra.test_jobs import load
from tests.jobs.running import ROOT, uploaded

submit = load(ROOT / "infra/jobs/submit.py")

CODE = (
    *("memlm/cli.py", "memlm/credentials.py", "memlm/model/kernels/native.py", "pipelines/pretrain.py"),
    *("tune_spaces/lora.py", "infra/jobs/nccl_smoke.py", "infra/jobs/runtime_env.yaml", "pyproject.toml"),
)
DATA = tuple(
    str(file.relative_to(ROOT))
    for file in sorted((ROOT / "memlm").rglob("*"))
    if file.is_file() and file.suffix not in (".py", ".pyc")
)
"""Files that the package reads from its own folders: prompts, word lists, templates of pages,
C++."""
SECRET = (
    *(".env", ".env.production", "memlm/.env", "infra/jobs/.env.local", ".netrc", "_netrc", ".aws/credentials"),
    *("memlm/.aws/config", "id_rsa", "pipelines/id_ed25519", "mine.pem", "memlm/data/server.key", "key.json"),
    *("infra/envs/dev/mine.tfvars", "infra/jobs/mine.tfvars", "infra/jobs/x.auto.tfvars.json", "backend.hcl"),
    *("terraform.tfstate", "memlm/terraform.tfstate.backup", "pipelines/credentials", "memlm/credentials.json"),
    *("infra/jobs/my-service-account.json", "auth_token", "memlm/hf.token", ".kube/config", "infra/jobs/kubeconfig"),
    *("secrets.yaml", "memlm/secrets.toml", "rootkey.csv", "memlm/me_accessKeys.csv", ".ssh/id_rsa", ".git/config"),
    *("memlm/prod.env", "infra/jobs/env.production", "pipelines/token.txt", "memlm/api_key.txt", "memlm/hf_token"),
    *("infra/jobs/SERVER.PEM", "infra/jobs/x.TFVARS", "memlm/deploy.key.bak", "memlm/server.crt", "pipelines/a.ovpn"),
    *("infra/jobs/credentials.yaml", "infra/jobs/aws.ini", "memlm/.config/gh/hosts.yml", "tune_spaces/.pypirc"),
    *("tokenizer/credentials.json", "tokenizer/.env", "tokenizer/token", "infra/jobs/config.toml", "memlm/key.json"),
    *(
        "memlm/data/prompts/.env.txt",
        "memlm/data/stating/.secrets.toml",
        "infra/secrets.py",
        "id_rsa.py",
        "pipelines/secrets/openai.txt",
        "memlm/id_rsa.pub",
    ),
)
OUTPUT = (
    *("patched/model.safetensors", "patched/manifest.json", "patched/config.json", "restored/tokenizer.json"),
    *("out/deep/er/model.safetensors", "memlm/patched/model.safetensors", "runs/laptop/frontier.json", "mlflow.db"),
    *(
        "my facts.csv",
        "docs.jsonl",
        "notebook.ipynb",
        "wandb/x",
        "tests/support/tiny.py",
        ".venv/bin/python",
        "dist/x.whl",
    ),
    *("memlm/__pycache__/cli.cpython-311.pyc", "memlm/data/corpus.zst", "memlm/weights.pt"),
)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """This project's code, as git would have it, in a checkout full of what must stay there."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in (*CODE, *DATA, ".gitignore", ".rayignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "-q", "-m", "code")
    for name in (*SECRET, *OUTPUT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_text("secret")
    monkeypatch.setattr(submit, "ROOT", folder)
    return folder


def git(folder: Path, *command: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=folder, check=True)


def test_a_plain_submission_uploads_the_code_alone(checkout):
    assert uploaded(checkout) == {*CODE, *DATA}


def test_installed_packages_include_the_uploaded_data():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    installed = {
        str(file.relative_to(ROOT))
        for package, names in patterns.items()
        for name in names
        for file in (ROOT / package.replace(".", "/")).glob(name)
    }
    assert {"memlm/data/stating/verbs.toml", "memlm/data/world/words.toml"} < installed == set(DATA)


def test_submit_uploads_only_files_that_git_tracks(checkout):
    (checkout / "memlm" / "mine.py").write_text("not tracked")
    (checkout / "memlm" / "cli.py").write_text("changed since the commit")
    with submit.upload() as folder:
        assert uploaded(folder) == {*CODE, *DATA}
        assert (folder / "memlm" / "cli.py").read_text() == "changed since the commit"
    assert not folder.exists()


def test_a_key_that_git_tracks_is_not_uploaded_either(checkout):
    git(checkout, "add", "--all", "--force")
    with submit.upload() as folder:
        assert not uploaded(folder) & {*SECRET, *OUTPUT}


def test_a_tokenizer_is_uploaded_once_git_tracks_it(checkout):
    (checkout / "tokenizer").mkdir(exist_ok=True)
    (checkout / "tokenizer" / "tokenizer.json").write_text("{}")
    git(checkout, "add", "tokenizer")
    with submit.upload() as folder:
        assert "tokenizer/tokenizer.json" in uploaded(folder)


def test_links_out_of_the_checkout_are_not_followed(checkout, tmp_path, capsys):
    (tmp_path / "credentials").write_text("secret")
    (checkout / "memlm" / "outside.txt").symlink_to(tmp_path / "credentials")
    (checkout / "memlm" / "untracked.txt").symlink_to(checkout / "key.json")
    (checkout / "memlm" / "inside.py").symlink_to("cli.py")
    git(checkout, "add", "memlm/outside.txt", "memlm/untracked.txt", "memlm/inside.py")
    with submit.upload() as folder:
        assert uploaded(folder) == {*CODE, *DATA, "memlm/inside.py"}
    said = capsys.readouterr().err
    assert "not uploaded: memlm/outside.txt is a link" in said and "memlm/untracked.txt" in said


def test_omitted_files_are_named_and_a_folder_without_git_is_refused_on_one_line(
    checkout, tmp_path, monkeypatch, capsys
):
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "MEMLM_STORAGE", "MEMLM_TRACKING"):
        monkeypatch.setenv(name, {"MEMLM_STORAGE": "s3://runs/memlm", "MEMLM_TRACKING": "off"}.get(name, "http://x"))
    monkeypatch.setattr(submit, "run", lambda identity, command, *, again: 0)
    assert submit.main(["pretrain", "smoke"]) == 0
    assert "not uploaded, because git does not track it: " in capsys.readouterr().err
    monkeypatch.setattr(submit, "ROOT", tmp_path)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "pretrain.py").touch()
    assert submit.main(["pretrain", "smoke"]) == 2
    assert "error: git does not say what belongs to" in capsys.readouterr().err
