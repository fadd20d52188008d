"""A local Ray that only its user can use: its token and its folder are open to nobody else, and
it listens on loopback alone.

Whoever reaches Ray's ports and knows its token runs code as the user who started it.
"""

import os
import secrets
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from memlm.run import RunError

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
TMPDIR = "RAY_TMPDIR"
UV_HOOK = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""On every system, Ray takes 127.0.0.1 for the address of its node where this is 0, and then
listens there alone."""
WITHOUT_TOKEN = "every user of this machine can run code as you while a local Ray runs"
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """Where Ray's token lies: in the user's home, where memlm makes it, or where
    RAY_AUTH_TOKEN_PATH says."""

    path: Path
    is_named: bool

    def problem(self) -> str:
        """Why others may know the token, or why it is none; "" if all is well or the file is
        still to be made. Raises OSError."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return "is not there" if self.is_named else ""
        if not stat.S_ISREG(found.st_mode):
            return "is no file"
        if found.st_uid not in (os.geteuid(), 0):
            return "belongs to another user"
        if stat.S_IMODE(found.st_mode) & OTHERS:
            return f"can be read by others (mode {stat.S_IMODE(found.st_mode):04o})"
        return "" if self.path.read_bytes().strip() else "is empty"

    def make_private(self) -> None:
        """The file of the user's home is made if it is missing, with mode 0600, which one that
        Ray made gets too. Raises OSError."""
        if self.is_named:
            return
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & (
            stat.S_IWGRP | stat.S_IWOTH
        ):  # who may write there may put a token of theirs in its place
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
        if not self.path.exists():
            _write_once(self.path, secrets.token_hex(32))
        if stat.S_ISREG(self.path.stat().st_mode) and self.path.stat().st_mode & OTHERS:
            self.path.chmod(0o600)


def asks_for_token() -> bool:
    """A local Ray does, unless it was told otherwise."""
    return os.environ.get(MODE, "").strip().lower() != "disabled"


def require_known_mode() -> None:
    """Raises RunError for a mode that is neither token nor disabled: Ray would ask for no token
    then, without a word.

    One that is empty or has white space around it, as files of variables leave it, means what it
    says.
    """
    mode = os.environ.get(MODE, "")
    if mode.strip().lower() not in ("", "token", "disabled"):
        raise RunError(
            f"{MODE} is {mode!r}, which Ray takes for no token at all. Unset it, or set it to token, or to disabled if every user of this machine "
            "may run code as you"
        )
    if not mode.strip():
        os.environ.pop(MODE, None)
    elif mode != mode.strip():
        os.environ[MODE] = mode.strip()


def token_file() -> TokenFile | None:
    """None where no file counts: the token stands in the environment, or there is none."""
    if os.environ.get(TOKEN) or not asks_for_token():
        return None
    named = os.environ.get(TOKEN_PATH)
    return TokenFile(path=Path(named) if named else Path.home() / ".ray" / "auth_token", is_named=bool(named))


def _write_once(path: Path, text: str) -> None:
    """Whole or not at all, and never over what is there."""
    draft = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        with suppress(FileExistsError):  # another run was first
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def require_private_token() -> None:
    """Raises RunError where other users of this machine could learn the token."""
    file = token_file()
    if file is None:
        return
    try:
        file.make_private()
        problem = file.problem()
    except OSError as error:
        problem = f"cannot be made readable by you alone ({error.strerror or type(error).__name__})"
    if problem:
        raise RunError(
            f"Ray's token {file.path} {problem}, and Ray is not started: who knows it can run code as you. {remedy(file)}"
        )


def remedy(file: TokenFile) -> str:
    if file.is_named:
        return f"Run chmod 600 {file.path}, or name a file of your own, with a token in it, by {TOKEN_PATH}"
    return f"Run chmod 600 {file.path}, or move it away: a run makes another, for you alone"


def private_folder() -> Path:
    """Where Ray's sessions lie, with their sockets and logs, which Ray itself opens to every
    user of the machine.

    The folder that RAY_TMPDIR names, or the system's for temporary files; below it one of this
    user's, unless it is that already. Raises RunError where others may enter that too.
    """
    above = Path(os.environ.get(TMPDIR) or ("/tmp" if sys.platform == "darwin" else tempfile.gettempdir()))
    folder = above if _is_private(above) else above / f"memlm-{os.geteuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
            folder.chmod(0o700)
    except OSError as error:
        raise RunError(
            f"Ray's folder {folder} cannot be made ({error.strerror or type(error).__name__}). Set {TMPDIR} to a folder of your own"
        ) from error
    if not _is_private(folder):
        raise RunError(
            f"Ray's folder {folder} belongs to another user or is a link, and Ray is not started: its sockets would lie there. Set {TMPDIR} to a "
            "folder of your own with mode 700"
        )
    return folder


def _is_private(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & OTHERS


@contextmanager
def only_for_this_user(say: Callable[[str], None]) -> Iterator[None]:
    """Around a local Ray, from before it starts until after it is shut down. `say` warns of a
    token that was turned off."""
    require_known_mode()
    require_private_token()
    if not asks_for_token():
        say(f"warning: {MODE} is {os.environ[MODE]}: {WITHOUT_TOKEN}")
    settings = {CLUSTERS: "0", TMPDIR: str(private_folder()), **_loopback_interface()}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        with _settings_of_imported_ray():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _settings_of_imported_ray() -> Iterator[None]:
    """Ray reads both from the environment when it is imported, which may have been before memlm
    was."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    turn_off_uv_hook()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def turn_off_uv_hook() -> None:
    """As memlm/jobs/__init__.py does, also where Ray was imported before it. Who sets the
    variable to 1 keeps the hook."""
    from ray._private import ray_constants

    if os.environ.get(UV_HOOK, "0").lower() not in ("1", "true"):
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


def _loopback_interface() -> dict[str, str]:
    """For gloo and NCCL, which else listen on the interface that the host's name leads to. What
    the user has set stays."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    wanted = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {variable: names[0] for variable in wanted if names and variable not in os.environ}
