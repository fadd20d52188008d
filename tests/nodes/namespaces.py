"""Several machines with addresses of their own, simulated on one by Linux network, process and
mount namespaces that a bridge joins.

    host:     run_apart("tests.chaos.node_loss", ...) starts the module in namespaces of its own
              and returns its result
    inside:   Network() is the bridge, at 10.77.0.1; add_node() is a machine, from 10.77.0.2 on,
              with its own processes, /dev/shm and /tmp/ray
    a loss:   node.kill() cuts the machine's cable, then kills all its processes, unannounced

Nothing is left on the host whatever happens: the bridge, the machines and all processes end with
the first process inside. Needs root, or a kernel that lets users make namespaces.
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from tests.jobs.running import ROOT

GATEWAY = "10.77.0.1"
_OWN = ("--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc")


def _apart() -> list[str]:
    return ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), *_OWN]


@functools.cache
def why_not() -> str:
    """The reason why this machine cannot simulate several; empty if it can."""
    missing = [tool for tool in ("unshare", "nsenter", "ip", "mount") if shutil.which(tool) is None]
    if missing:
        return f"there is no {' or '.join(missing)} here (Debian: util-linux, iproute2)"
    trial = "ip link add br0 type bridge && ip link add cable type veth peer name eth0 && mount -t tmpfs none /mnt"
    done = subprocess.run([*_apart(), "sh", "-c", trial], capture_output=True, text=True)
    return (
        f"namespaces need root or a kernel that allows them to users: {done.stderr.strip()}" if done.returncode else ""
    )


def run_apart(module: str, arguments: Mapping[str, Any], folder: Path, *, timeout: float) -> Any:
    """Run `main(arguments)` of the module in namespaces of its own, and return its JSON result.

    Raises RuntimeError with the end of its output if it fails or takes longer than `timeout`
    seconds.
    """
    (folder / "arguments.json").write_text(json.dumps(dict(arguments)))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_apart(), sys.executable, "-m", "tests.nodes.apart", module, str(folder)],
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code: int | str = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = f"nothing for {timeout:.0f} s"
        finally:
            process.kill()  # with it the first process inside, and with that all others
            process.wait()
    if code != 0:
        raise RuntimeError(f"{module} ended with {code}:\n{log.read_text(errors='replace')[-6000:]}")
    return json.loads((folder / "result.json").read_text())


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Network:
    """The bridge. The process that makes it is on it too, at GATEWAY."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes = folder, list[Node]()
        self.hosts = folder / "hosts"
        """Every machine's /etc/hosts."""
        self.hosts.write_text("127.0.0.1 localhost\n")
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "br0", "type", "bridge")
        _run("ip", "addr", "add", f"{GATEWAY}/24", "dev", "br0")
        _run("ip", "link", "set", "br0", "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for node in self.nodes:
            node.kill()

    def add_node(self, name: str) -> "Node":
        node = Node(name, len(self.nodes) + 2, self.folder / name, self.hosts)
        self.nodes.append(node)
        return node


class Node:
    """A machine that is switched on and runs nothing yet."""

    def __init__(self, name: str, number: int, folder: Path, hosts: Path) -> None:
        self.name, self.address, self.folder = name, f"10.77.0.{number}", folder
        self.cable = f"cable{number}"
        (folder / "ray").mkdir(parents=True)
        with hosts.open("a") as file:  # gloo finds a machine's address by its name
            file.write(f"{self.address} {name}\n")
        own = f"""
            mount -t tmpfs -o size=512m tmpfs /dev/shm
            mkdir -p /tmp/ray && mount --bind {folder}/ray /tmp/ray
            mount --bind {hosts} /etc/hosts
            hostname {name}
            ip link set lo up
            exec sleep infinity
        """
        self._keeper = subprocess.Popen(["unshare", *_OWN, "sh", "-ec", own])
        self.pid = self._first_process()
        _run("ip", "link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        _run("ip", "link", "set", self.cable, "master", "br0", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", GATEWAY)

    def _first_process(self) -> int:
        """Process id of the machine's first process, once its mounts are made."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._keeper.poll() is None:
            found = [child for child in psutil.Process(self._keeper.pid).children() if child.name() == "sleep"]
            if found:
                return found[0].pid
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} does not start")

    def command(self, *command: str) -> list[str]:
        """The words that run a command on this machine."""
        entered = ["nsenter", f"--target={self.pid}", f"--wd={ROOT}"]
        return [*entered, "--net", "--pid", "--mount", "--uts", "--ipc", "--", *command]

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        subprocess.run(self.command(*command), check=True, capture_output=True, text=True, env=environment)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a command in the background; its output goes to the machine's folder."""
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                self.command(*command),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env=dict(environment),
            )

    def processes(self, name: str) -> list[psutil.Process]:
        """Processes of this machine with `name` in their command line."""
        own = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            try:
                if os.readlink(f"/proc/{process.pid}/ns/pid") == own and name in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.Error, OSError):  # it ended meanwhile
                continue
        return found

    @property
    def is_up(self) -> bool:
        return self._keeper.poll() is None

    def kill(self) -> None:
        """Switch the machine off, as when its power fails."""
        if not self.is_up:
            return
        _run("ip", "link", "delete", self.cable)
        os.kill(self.pid, signal.SIGKILL)
        self._keeper.wait()
