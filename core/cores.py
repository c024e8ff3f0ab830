"""How many cores this process may use: those of its affinity, no more than its container's CPU quota pays for.

Slurm's --cpus-per-task and `taskset` set the affinity; Kubernetes and `docker --cpus` set a quota of the control group. OMP_NUM_THREADS
is not read: the option `threads` says what it would.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

MEMBERSHIP, CONTROL = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


class Options(Protocol):
    """What a configuration says of its process's computations."""

    @property
    def threads(self) -> int | Literal["auto"]:
        """A number, or 0 = all usable cores; `auto` is resolved before it is asked for."""


def usable(membership: Path = MEMBERSHIP, control: Path = CONTROL) -> int:
    """Return the number of cores, at least 1; a quota of 1.5 cores is 2.

    Args:
        membership: file that names the process's control groups. control: folder where control groups are mounted.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(membership, control))]))


def threads(config: Options) -> int:
    """Return how many CPU threads a process of this configuration computes on.

    The number changes the last bits of sums, and is in no stage key all the same: a node with other cores is asked the same question,
    and reuses what another one answered. Give `threads` a number where runs have to be bit-identical on any machine.
    """
    return int(config.threads) or usable()


def _quotas(membership: Path, control: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of the process's control groups and of those they lie in, versions 1 and 2."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = [control / controllers, control / "cpu"] if controllers else [control, control / "unified"]
        for root in roots:
            # Inside a container the path may be the host's, which is not mounted; the mount's own root then is the container's.
            inside = Path(path.lstrip("/"))
            for folder in (root / inside, *(root / parent for parent in inside.parents)):
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    """Yield the quota that a control group's folder sets; nothing where it sets none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = (float(word) for word in " ".join((folder / name).read_text() for name in names).split())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:
            yield quota / period
