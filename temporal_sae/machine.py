"""The machine: its cores and GPUs, and free memory within the limits of this process."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # slow to import; launchers of sweeps look at the host's memory without it

ROOT = Path("/")
MIB = 2**20
# Where a cgroup says its limit and its usage, and what of that the kernel takes back when asked to.
V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
V2 = ("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable"))


@dataclass(frozen=True)
class Free:
    """Memory that can still be taken.

    Args:
        n_bytes: how much.
        limit: bytes of the limit that leaves no more; None: no limit, it is all there is.
        kind: what has that limit.
    """

    n_bytes: int
    limit: int | None = None
    kind: str = ""

    def __str__(self) -> str:
        """In MiB, such as `1,204 of the 1,500 of the cgroup`."""
        of_limit = (
            f" of the {self.limit / MIB:,.0f} of {self.kind}" if self.limit is not None else ""
        )
        return f"{self.n_bytes / MIB:,.0f}{of_limit}"


@dataclass(frozen=True)
class Planned:
    """Memory that a component will take.

    Args:
        n_bytes: how much.
        smaller: keys of the config that make it smaller, as typed; the most helpful first.
        held: it has taken it already.
        phase: `training` or `evaluation`, where it is taken only then.
    """

    n_bytes: int
    smaller: tuple[str, ...]
    held: bool = False
    phase: str = ""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Return the GPUs that a program started here would see, as CUDA_VISIBLE_DEVICES names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        listed = [name.strip() for name in names.split(",")]
        # CUDA reads the list up to the first entry that names nothing.
        end = next((n for n, name in enumerate(listed) if name in ("", "-1")), len(listed))
        return listed[:end]
    if not has_driver():
        return []
    import torch  # slow to import

    return [str(n) for n in range(torch.cuda.device_count())]


def has_driver() -> bool:
    """Return whether CUDA's driver is installed."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def free_memory(device: torch.device) -> Free | None:
    """Return what this process can still allocate on a device; None where it is not known."""
    if device.type == "cuda":
        import torch

        return Free(int(torch.cuda.mem_get_info(device)[0]))
    found = [*_limits_of_process(ROOT)]
    if (host := free_on_host(ROOT)) is not None:
        found.append(host)
    return min(found, key=lambda free: free.n_bytes, default=None)


def free_on_host(root: Path = ROOT) -> Free | None:
    """Return the memory that is free for processes started here, on the machine and in the cgroups.

    Containers and batch systems (SLURM's `--mem`) limit memory by cgroups. They are nested, and
    each counts all that is below it.

    Args:
        root: where `/proc` and `/sys` are.

    Returns:
        The least of all; None where the system does not say.
    """
    found = [*_limits_of_cgroups(root)]
    with suppress(OSError, KeyError, ValueError):
        found.append(Free(_table(root / "proc/meminfo")["MemAvailable"] * 1024))
    return min(found, key=lambda free: free.n_bytes, default=None)


def _limits_of_process(root: Path) -> Iterator[Free]:
    """Yield what `ulimit` leaves of addresses, and of memory that is not a file's."""
    with suppress(OSError, KeyError, ValueError):
        status = _table(root / "proc/self/status")
        for kind, number, used in (
            ("ulimit -v", resource.RLIMIT_AS, "VmSize"),
            ("ulimit -d", resource.RLIMIT_DATA, "VmData"),
        ):
            limit = resource.getrlimit(number)[0]
            if limit != resource.RLIM_INFINITY:
                yield Free(max(0, limit - status[used] * 1024), limit, kind)


def _limits_of_cgroups(root: Path) -> Iterator[Free]:
    """Yield what each cgroup of this process, and each around it, has left."""
    for folder, (limit_file, usage_file, reclaimable) in _cgroups(root):
        with suppress(OSError, ValueError):  # the outermost has none; `max` is no number
            limit = int((folder / limit_file).read_text())
            used = int((folder / usage_file).read_text())
            stat = _table(folder / "memory.stat")
            used -= sum(stat.get(name, 0) for name in reclaimable)
            yield Free(min(limit, max(0, limit - used)), limit, "the cgroup")


def _cgroups(root: Path) -> Iterator[tuple[Path, tuple[str, str, tuple[str, ...]]]]:
    """Yield the folder of each cgroup that counts this process's memory, from the innermost."""
    with suppress(OSError, ValueError):  # another system has no such files
        names = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup")]
        mounts = [_mounted(line) for line in _lines(root / "proc/self/mountinfo")]
        for number, controllers, name in names:
            is_v1 = "memory" in controllers.split(",")
            for kind, options, visible, mount in mounts:
                if is_v1 and kind == "cgroup" and "memory" in options.split(","):
                    yield from ((folder, V1) for folder in _up(root, mount, visible, name))
                if number == "0" and kind == "cgroup2":
                    yield from ((folder, V2) for folder in _up(root, mount, visible, name))


def _mounted(line: str) -> tuple[str, str, str, str]:
    """Of a line of mountinfo: file system, its options, which part of it, and where that is."""
    place, _, what = line.partition(" - ")
    kind, _, options = what.split(" ", 2)
    visible, mount = place.split(" ")[3:5]
    return kind, options, visible, mount


def _up(root: Path, mount: str, visible: str, name: str) -> Iterator[Path]:
    """From the cgroup `name` to the outermost that can be seen, where `visible` is mounted.

    A container may see only its own part of the tree, and a name that lies outside of it.
    """
    top = root / mount.lstrip("/")
    inside = os.path.relpath(name, visible)
    folder = top if inside.startswith("..") else top / inside
    yield folder
    while folder != top:
        folder = folder.parent
        yield folder


def _table(path: Path) -> dict[str, int]:
    """Return the numbers of a file of lines such as `MemFree:  12 kB` or `active_file 12`."""
    words = [line.replace(":", " ").split() for line in _lines(path)]
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
