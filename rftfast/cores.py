"""How many cores of the machine are ours."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Cores this process may use, at least 1: those it may run on (a batch job's share), and no more than its container's limit
    on processor time allows, rounded up. More threads than that take turns, and those that wait for them spin."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(limit) for limit in _limits())]))


def _limits() -> Iterator[float]:
    """Cores' worth of time that control groups allow: those of version 2 from ours upwards, or version 1's."""
    own = _read(_OWN).strip().removeprefix("0::/") if _read(_OWN).startswith("0::/") else ""
    for group in (_CGROUP / own, *(_CGROUP / own).parents):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdecimal():
            yield int(quota) / int(period)
        if group == _CGROUP:
            break
    quota, period = (_read(_CGROUP / "cpu" / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    if quota.isdecimal() and period.isdecimal():  # -1: no limit
        yield int(quota) / int(period)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # another system, or not ours to read
        return ""
