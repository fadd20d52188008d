"""The memory that this process can still allocate, on a GPU or on its host."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch


def available_memory(device: "torch.device | None" = None) -> int:
    """Bytes that this process can still allocate: on a GPU, or on the machine within each control
    group that contains the process."""
    if device is not None and device.type == "cuda":
        import torch  # a caller with such a device has imported it already

        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *free_in_control_groups()])


def free_in_control_groups(
    membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """Bytes left under each memory limit of the process's control groups and their parents;
    nothing on a system without control groups.

    Supports both versions of the interface: https://docs.kernel.org/admin-guide/cgroup-v2.html and
    .../cgroup-v1/memory.html. A container sees its own group at the mount point, whatever its path
    says, so missing folders are skipped.
    """
    for line in membership.read_text().splitlines() if membership.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit, usage, reclaimable = mount, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, reclaimable = mount / "memory", "total_inactive_file"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root) or not (folder / limit).is_file():
                continue
            bound = (folder / limit).read_text().strip()
            if bound != "max":
                statistics = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
                # Cached files count as used, but the kernel can drop them when memory is needed.
                yield int(bound) - int((folder / usage).read_text()) + int(statistics.get(reclaimable, 0))
