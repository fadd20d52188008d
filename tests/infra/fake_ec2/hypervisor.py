"""Machines of the fake EC2: for each instance that runs in moto, one of Linux namespaces that boots
its user-data.

A machine that is ended in moto is switched off; one that dies, or switches itself off, is ended
in moto, as a spot instance that is taken or a machine whose instance_initiated_shutdown_behavior
is terminate.
"""

import json
import os
import stat
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch.utils.cpp_extension import get_default_build_root

from tests.infra.fake_ec2.metadata import ADDRESS, Identity, MetadataServer
from tests.infra.fake_ec2.region import Region, Values
from tests.nodes.namespaces import GATEWAY, Network, Node

USER, HOME, TOKEN_PATH, KERNELS = "memlm", "/run/memlm", "/run/ray/token", "/run/kernels"
UID = 4711
POWER_OFF = "/tmp/ray/power-off"
CLEAN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
"""Environment that cloud-init gives a boot script."""


@dataclass
class Machine:
    node: Node
    identity: Identity
    is_head: bool
    booted_at: float


@dataclass(frozen=True)
class Event:
    seconds: float  # seconds since the region started
    what: str  # booted, lost, ended
    instance_id: str


class Hypervisor:
    def __init__(self, network: Network, region: Region, folder: Path) -> None:
        self.network, self.region, self.folder = network, region, folder
        self.machines: dict[str, Machine] = {}
        self.events: list[Event] = []
        self.error: str | None = None
        self._began, self._over, self._lock = time.monotonic(), threading.Event(), threading.RLock()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()
        for machine in self.machines.values():
            machine.node.kill()

    @property
    def head(self) -> Machine | None:
        return next((m for m in self.up if m.is_head), None)

    @property
    def workers(self) -> list[Machine]:
        return [m for m in self.up if not m.is_head]

    @property
    def up(self) -> list[Machine]:
        with self._lock:
            return [machine for machine in self.machines.values() if machine.node.is_up]

    def identity_of(self, address: str) -> Identity | None:
        with self._lock:
            return next((m.identity for m in self.machines.values() if m.identity.address == address), None)

    def lose(self, machine: Machine) -> None:
        """Cut the machine's power; EC2 notices a little later, and nobody gets a notice."""
        with self._lock:
            self._note("lost", machine.identity.instance_id)
            machine.node.kill()

    def announce_loss(self, machine: Machine, *, seconds: float = 120) -> None:
        """Give the machine the notice of a spot instance."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        machine.identity.action = json.dumps({"action": "terminate", "time": when})

    def _note(self, what: str, instance_id: str) -> None:
        self.events.append(Event(round(time.monotonic() - self._began, 1), what, instance_id))

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            try:
                self._step()
            except Exception:
                self.error = traceback.format_exc()
                raise

    def _step(self) -> None:
        for instance in self.region.instances():
            name, state = instance["InstanceId"], instance["State"]["Name"]
            with self._lock:
                machine = self.machines.get(name)
                if machine is None and state == "running" and instance.get("Tags"):  # moto gives them a moment later
                    self._boot(instance)
                elif machine is not None and machine.node.is_up and state != "running":
                    self._note("ended", name)
                    machine.node.kill()
                elif machine is not None and state == "running":
                    if machine.node.is_up and (machine.node.folder / "ray" / Path(POWER_OFF).name).exists():
                        self._note("switched itself off", name)
                        machine.node.kill()
                    if not machine.node.is_up:
                        self.region.end(name)

    def _boot(self, instance: Values) -> None:
        name, address = instance["InstanceId"], instance["PrivateIpAddress"]
        template = self.region.template_of(instance)
        (metadata,), (profile,) = template["metadata_options"], template["iam_instance_profile"]
        tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
        identity = Identity(
            instance_id=name,
            address=address,
            zone=instance["Placement"]["AvailabilityZone"],
            role=self.region.applied.one("aws_iam_instance_profile", arn=profile["arn"])["role"],
            hop_limit=metadata["http_put_response_hop_limit"],
            tags=tags if metadata["instance_metadata_tags"] == "enabled" else None,
        )
        prefix, _, number = address.rpartition(".")
        assert prefix == GATEWAY.rpartition(".")[0], f"{address} is not on the bridge"
        node = Node(name, int(number), self.folder / name, self.network.hosts)
        self.network.nodes.append(node)
        self.machines[name] = Machine(node, identity, tags.get("ray-node-type") == "head", time.monotonic())
        self._note("booted", name)
        lay_out(node)
        script = node.folder / "user-data"
        script.write_text(self.region.boot_script(instance))
        node.start(["sh", "-c", f"cd / && exec bash {script}"], CLEAN)


def lay_out(node: Node) -> None:
    """Parts of a machine image and VPC that this machine lacks: a user of its own, /run, and a
    Python that others may run."""
    lines = {"passwd": f"{USER}:x:{UID}:{UID}::{HOME}:/bin/bash", "group": f"{USER}:x:{UID}:"}
    for name, line in lines.items():
        (node.folder / name).write_text(Path(f"/etc/{name}").read_text().rstrip("\n") + f"\n{line}\n")
        node.run("mount", "--bind", str(node.folder / name), f"/etc/{name}")
    node.run("mount", "-t", "tmpfs", "-o", "mode=755,size=256m", "tmpfs", "/run")
    node.run("chmod", "1777", "/tmp/ray")
    compiled = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()) / "memlm"
    if compiled.is_dir():  # otherwise every machine would compile them for a minute
        node.run("mkdir", KERNELS)
        node.run("cp", "-r", str(compiled), KERNELS)
        node.run("chown", "-R", f"{UID}:{UID}", KERNELS)
    python = Path(sys.executable).resolve().parents[1]
    closed = [p for p in python.parents if not p.stat().st_mode & stat.S_IXOTH]
    if closed:  # as /root is: another one in its place, with the Python alone
        kept = node.folder / "python"
        kept.mkdir()
        node.run("mount", "--bind", str(python), str(kept))
        node.run("mount", "-t", "tmpfs", "-o", "mode=755,size=16m", "tmpfs", str(closed[-1]))
        node.run("mkdir", "-p", str(python))
        node.run("mount", "--move", str(kept), str(python))


def metadata_of(hypervisor: Hypervisor) -> MetadataServer:
    """The metadata service, which every machine reaches over its gateway."""
    if os.system(f"ip addr add {ADDRESS}/32 dev br0") != 0:
        raise RuntimeError(f"{ADDRESS} cannot be put on the bridge")
    return MetadataServer(hypervisor.identity_of)
