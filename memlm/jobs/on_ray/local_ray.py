"""Protection of a local Ray from other users: its token and folder are private, and it listens only
on loopback.

Anyone who reaches Ray's ports and knows its token can run code as the user who started it.
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
"""If this is 0, Ray uses 127.0.0.1 as the address of its node on every system, and listens only
there."""
WITHOUT_TOKEN = "every user of this machine can run code as you while a local Ray runs"
OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """File of Ray's token: in the user's home, where memlm makes it, or at RAY_AUTH_TOKEN_PATH."""

    path: Path
    is_named: bool

    def problem(self) -> str:
        """Reason why others may know the token or why it is invalid; "" if there is none, or no
        file yet. Raises OSError."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return "is not there" if self.is_named else ""
        if not stat.S_ISREG(found.st_mode):
            return "is not a plain file"
        if found.st_uid not in (os.geteuid(), 0):
            return "belongs to another user"
        if stat.S_IMODE(found.st_mode) & OTHERS:
            return f"can be read by others (mode {stat.S_IMODE(found.st_mode):04o})"
        return "" if self.path.read_bytes().strip() else "is empty"

    def make_private(self) -> None:
        """Make the file in the user's home if it is missing, with mode 0600; a file that Ray made
        gets this mode too. Raises OSError."""
        if self.is_named:
            return
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):  # anyone who can write there could replace the token
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
        if not self.path.exists():
            _write_once(self.path, secrets.token_hex(32))
        if stat.S_ISREG(self.path.stat().st_mode) and self.path.stat().st_mode & OTHERS:
            self.path.chmod(0o600)


def asks_for_token() -> bool:
    """Whether a local Ray asks for a token, which is the default."""
    return os.environ.get(MODE, "").strip().lower() != "disabled"


def require_known_mode() -> None:
    """Raise RunError for a mode that is neither token nor disabled: Ray would then silently ask for
    no token.

    An empty mode means the default, and white space around a mode is ignored.
    """
    mode = os.environ.get(MODE, "")
    if mode.strip().lower() not in ("", "token", "disabled"):
        raise RunError(
            f"{MODE} is {mode!r}, which makes Ray ask for no token. Unset it, or set it to token, or to disabled if every user of this machine "
            "may run code as you"
        )
    if not mode.strip():
        os.environ.pop(MODE, None)
    elif mode != mode.strip():
        os.environ[MODE] = mode.strip()


def token_file() -> TokenFile | None:
    """File of the token; None if the token is in the environment or disabled."""
    if os.environ.get(TOKEN) or not asks_for_token():
        return None
    named = os.environ.get(TOKEN_PATH)
    return TokenFile(path=Path(named) if named else Path.home() / ".ray" / "auth_token", is_named=bool(named))


def _write_once(path: Path, text: str) -> None:
    """Write a file completely or not at all, and never over an existing one."""
    draft = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        with suppress(FileExistsError):  # another run has made it
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def require_private_token() -> None:
    """Raise RunError if other users of this machine could learn the token."""
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
            f"Ray's token {file.path} {problem}, so Ray is not started: anyone who knows it can run code as you. {remedy(file)}"
        )


def remedy(file: TokenFile) -> str:
    if file.is_named:
        return f"Run chmod 600 {file.path}, or name a file of your own, with a token in it, by {TOKEN_PATH}"
    return f"Run chmod 600 {file.path}, or move it away: a run makes another, for you alone"


def private_folder() -> Path:
    """Private folder for Ray's sessions, sockets and logs, which Ray itself would open to every
    user of the machine.

    It is below RAY_TMPDIR, or below the system's temporary folder; or RAY_TMPDIR itself if that is
    private. Raises RunError if other users can enter it.
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
            f"Ray's folder {folder} belongs to another user or is a link, so Ray is not started: its sockets would be there. Set {TMPDIR} to a "
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
    """Protect a local Ray that starts and ends within the block. `say` gets a warning if the token
    is disabled."""
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
    """Set both in Ray too: it reads them from the environment on import, perhaps before memlm's."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    turn_off_uv_hook()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def turn_off_uv_hook() -> None:
    """Turn Ray's uv hook off, even if Ray was imported before memlm.jobs did so. Setting the
    variable to 1 keeps the hook."""
    from ray._private import ray_constants

    if os.environ.get(UV_HOOK, "0").lower() not in ("1", "true"):
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False


def _loopback_interface() -> dict[str, str]:
    """Make gloo and NCCL listen on loopback, unless the user chose an interface; their default is
    the interface of the host's name."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    wanted = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {variable: names[0] for variable in wanted if names and variable not in os.environ}
