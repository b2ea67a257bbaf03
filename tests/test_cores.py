"""Cores that are ours: affinity and the limits of control groups."""

import os

import pytest

from rftfast import cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 16 cores whose control groups are files here."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(cores, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_OWN", tmp_path / "own")

    def write(name, text):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def test_without_limits_all_that_it_may_run_on(machine):
    assert cores.usable_cores() == 16
    machine("own", "0::/\n")
    machine("cgroup/cpu.max", "max 100000\n")
    assert cores.usable_cores() == 16


@pytest.mark.parametrize(("quota", "expected"), [(400_000, 4), (350_000, 4), (50_000, 1), (9_000_000, 16)])
def test_a_containers_limit(machine, quota, expected):
    machine("own", "0::/\n")
    machine("cgroup/cpu.max", f"{quota} 100000\n")
    assert cores.usable_cores() == expected


def test_the_tightest_of_nested_groups(machine):
    machine("own", "0::/pods/one\n")
    machine("cgroup/pods/cpu.max", "300000 100000\n")
    machine("cgroup/pods/one/cpu.max", "800000 100000\n")
    machine("cgroup/other/cpu.max", "100000 100000\n")
    assert cores.usable_cores() == 3


@pytest.mark.parametrize(("quota", "expected"), [("600000", 6), ("-1", 16)])
def test_version_1(machine, quota, expected):
    machine("own", "5:cpu,cpuacct:/docker/1\n")
    machine("cgroup/cpu/cpu.cfs_quota_us", f"{quota}\n")
    machine("cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cores.usable_cores() == expected


def test_a_system_that_cannot_tell(machine, monkeypatch):
    """macOS has no affinity."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.usable_cores() == 1
