"""Protection of a local Ray: other users cannot learn its token, and other machines cannot reach
its ports."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from memlm.jobs.on_ray.checks import ray_authentication
from memlm.jobs.on_ray.local_ray import CLUSTERS, only_for_this_user, private_folder, require_private_token
from memlm.run import RunError
from tests.jobs.running import ROOT, environment


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0)
    yield tmp_path
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def token_of(home: Path, text: str = "another run's token", permissions: int = 0o600) -> Path:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(permissions)
    return path


def test_a_token_is_made_for_its_user_alone_under_any_umask(home):
    require_private_token()
    path = home / ".ray" / "auth_token"
    assert mode(path) == 0o600 and len(path.read_text()) == 64 and mode(path.parent) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["auth_token"]
    token = path.read_text()
    require_private_token()
    assert path.read_text() == token


@pytest.mark.parametrize("permissions", [0o644, 0o666, 0o640, 0o604, 0o660])
def test_a_token_readable_by_others_is_made_private_and_kept(home, permissions):
    path = token_of(home, permissions=permissions)
    path.parent.chmod(0o777)
    assert ray_authentication().state == "warn" and "chmod 600" in ray_authentication().remedy
    require_private_token()
    assert mode(path) == 0o600 and path.read_text() == "another run's token" and not mode(path.parent) & 0o022
    assert ray_authentication().state == "ok"


def test_runs_that_start_at_once_agree_on_one_token(home):
    code = "from memlm.jobs.on_ray.local_ray import require_private_token as r; r(); print(open(__import__('sys').argv[1]).read())"
    command = [sys.executable, "-c", code, str(home / ".ray" / "auth_token")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({each.communicate(timeout=60)[0] for each in running}) == 1
    assert [each.name for each in (home / ".ray").iterdir()] == ["auth_token"]


def refused() -> str:
    with pytest.raises(RunError, match="Ray is not started: anyone who knows it can run code as you") as error:
        require_private_token()
    assert ray_authentication().state == "fail"
    return str(error.value)


def test_a_named_token_file_is_never_changed_and_refused_if_others_can_read_it(home, monkeypatch):
    path = token_of(home, permissions=0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert f"{path} can be read by others (mode 0644)" in refused() and mode(path) == 0o644
    assert f"chmod 600 {path}" in refused()
    path.unlink()
    assert "is not there" in refused()
    token_of(home)
    require_private_token()


def test_a_file_that_is_no_token_is_refused_without_waiting(home):
    path = token_of(home, text="")
    assert "is empty" in refused()
    path.write_text("\n")
    assert "is empty" in refused()
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "is not a plain file" in refused()
    path.unlink()
    path.mkdir()
    assert "is not a plain file" in refused()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_token_is_refused(home):
    os.chown(token_of(home), 12345, 12345)
    assert "belongs to another user" in refused()


def test_a_read_only_home_is_reported_on_one_line(home):
    (home / ".ray").write_text("no folder")
    with pytest.raises(RunError, match="cannot be made readable by you alone .*move it away"):
        require_private_token()


def test_a_token_in_the_environment_needs_no_file(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very secret")
    require_private_token()
    assert list(home.iterdir()) == [] and "secret" not in str(ray_authentication())


def test_turning_the_token_off_gives_a_warning(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    said: list[str] = []
    with only_for_this_user(said.append):
        pass
    assert len(said) == 1 and "every user of this machine can run code as you" in said[0]
    assert (ray_authentication().state, ray_authentication().remedy) == ("warn", "Unset RAY_AUTH_MODE")


@pytest.mark.parametrize("given", ["", " ", "token ", " TOKEN"])
def test_an_empty_or_blank_mode_leaves_the_token_on(home, monkeypatch, given):
    """With each of these values Ray itself would ask for no token."""
    monkeypatch.setenv("RAY_AUTH_MODE", given)
    said: list[str] = []
    with only_for_this_user(said.append):
        assert os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    assert not said and mode(home / ".ray" / "auth_token") == 0o600
    assert ray_authentication().state == "ok"


@pytest.mark.parametrize("given", ["tokens", "on", "true", "1", "none"])
def test_a_mode_that_ray_would_treat_as_disabled_is_refused(home, monkeypatch, given):
    monkeypatch.setenv("RAY_AUTH_MODE", given)
    with pytest.raises(RunError, match=f"RAY_AUTH_MODE is '{given}'"), only_for_this_user(print):
        pytest.fail("the block must not be entered")
    assert ray_authentication().state == "fail"


def test_the_settings_end_with_the_local_ray(home, monkeypatch):
    monkeypatch.setenv(CLUSTERS, "1")
    from ray._private import ray_constants

    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    before = dict(os.environ)
    with only_for_this_user(print):
        assert os.environ[CLUSTERS] == "0" and not ray_constants.ENABLE_RAY_CLUSTER
        assert mode(Path(os.environ["RAY_TMPDIR"])) == 0o700
    assert dict(os.environ) == before and ray_constants.ENABLE_RAY_CLUSTER


def test_rays_folder_is_private_to_its_user(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    folder = private_folder()
    assert folder.parent == tmp_path / "shared" and mode(folder) == 0o700 and mode(folder.parent) == 0o777
    folder.chmod(0o777)  # as left by an older run or by Ray
    assert private_folder() == folder and mode(folder) == 0o700
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    assert private_folder() == folder


def test_a_folder_planted_by_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    tmp_path.chmod(0o755)
    (tmp_path / "theirs").mkdir(mode=0o700)
    mine = tmp_path / f"memlm-{os.geteuid()}"
    mine.symlink_to(tmp_path / "theirs")
    with pytest.raises(RunError, match="is a link, so Ray is not started.*Set RAY_TMPDIR"):
        private_folder()
    mine.unlink()
    mine.write_text("no folder")
    with pytest.raises(RunError, match="cannot be made.*Set RAY_TMPDIR"):
        private_folder()
    mine.unlink()
    if os.geteuid() == 0:
        mine.mkdir(mode=0o755)
        os.chown(mine, 12345, 12345)
        with pytest.raises(RunError, match="belongs to another user"):
            private_folder()


LISTENING = """
import json, sys
import psutil
if sys.argv[1] == "ray first":
    import ray
from memlm.cli import parse
from memlm.jobs.on_ray.cluster import connect
import ray
with connect(parse("", ["smoke", "--storage", sys.argv[2]])):
    ray.get([ray.remote(lambda: 1).remote() for _ in range(2)])
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == "LISTEN"]
    session = ray._private.worker._global_node.get_session_dir_path()
    print("LISTENING", json.dumps([listening, [p.cmdline() for p in processes], session]))
"""


@pytest.mark.ray
@pytest.mark.parametrize("order", [pytest.param("ray first", marks=pytest.mark.slow), "memlm first"])
def test_a_local_ray_listens_on_loopback_alone(tmp_path, order):
    done = subprocess.run(
        [sys.executable, "-c", LISTENING, order, str(tmp_path / "runs")],
        cwd=ROOT,
        env=environment(HOME=str(tmp_path)),
        umask=0o022,
        capture_output=True,
        text=True,
        timeout=180,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LISTENING ")]
    addresses, commands, session = json.loads(line.removeprefix("LISTENING "))
    assert len(addresses) > 5 and set(addresses) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, done.stdout
    assert any(mode(folder) == 0o700 for folder in Path(session).parents)  # Ray's own folders are open to all users
    token = (tmp_path / ".ray" / "auth_token").read_text()
    assert mode(tmp_path / ".ray" / "auth_token") == 0o600 and token not in str(commands) + done.stdout + done.stderr
