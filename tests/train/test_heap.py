"""Freed memory stays in the process, so that it costs no page faults to use it again."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from rftfast.train.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [bytearray(20 << 20) for _ in range(8)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before, done = faults(), keep_freed_memory()
faults()
print(before, done, faults())
"""


def run(monkeypatch, **environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout.split()


def test_freed_memory_is_used_again(monkeypatch):
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the C library is not glibc")
    before, done, after = run(monkeypatch)
    assert done == "True"
    assert int(before) > 100 and int(after) < int(before) / 10


def test_what_the_environment_says_stays(monkeypatch):
    assert run(monkeypatch, MALLOC_TRIM_THRESHOLD_="100000")[1] == "False"
