"""bench/gpu.sh without a GPU, and with a stand-in for Python that says there is one."""

import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import gpu_table
from bench.schema import KernelTime, Machine, Measure, Result, Row

ROOT = Path(__file__).resolve().parents[2]
PARTS = [
    "build",
    "smoke",
    "llama-3.2-1b",
    "llama-7b",
    "qwen2.5-1.5b",
    "smollm2-135m",
    "kernels",
    "train",
    "head",
    "tests",
    "llama-7b-fp8",
    "rivals",
]
STAND_IN = """#!/usr/bin/env bash
echo "$@" >>"$ASKED"
case "$1 $2" in
  "- ") cat >/dev/null; echo fake-gpu 90 ;;
  "-c "*) exit 1 ;;
  "-m pip") exit 0 ;;
  "-m pytest") echo "the reason"; exit 3 ;;
  "bench/gpu_table.py "*) echo "the table of ${*:2}" ;;
  "bench/kernels.py "*) while [ "$1" != --json ]; do shift; done; echo {} >"$2" ;;
  *) exit 0 ;;
esac
"""


def script(*arguments, python=sys.executable, **environment):
    return subprocess.run(
        ["bash", str(ROOT / "bench" / "gpu.sh"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHON": str(python), **environment},
    )


@pytest.fixture
def stand_in(tmp_path):
    path = tmp_path / "python"
    path.write_text(STAND_IN)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_plan_needs_no_gpu(stand_in, tmp_path):
    done = script("--plan", python=stand_in, ASKED=str(tmp_path / "asked"))
    assert done.returncode == 0 and not done.stderr
    *parts, last = done.stdout.splitlines()
    assert [line.split()[0] for line in parts] == PARTS
    assert all(15 <= int(line.split()[1]) <= 120 for line in parts)
    assert "RFTFAST_CUDA=ON" in parts[0] and "ARCHITECTURES=90-real" in parts[0] and "--no-deps" in parts[0]
    assert "520 s are given" in last and "fake-gpu-" in last
    assert "--seconds 70 " in parts[6] and "{limit}" not in done.stdout
    for line in parts:
        for word in line.split():
            assert not word.startswith(("bench/", "tests/")) or word.startswith("bench/results/") or _exists(word), word


def _exists(path):
    return (ROOT / path).exists()


def test_its_commands_are_understood(stand_in, tmp_path):
    """Every option of every part is one that the program knows."""
    from bench import head, kernels, throughput, train

    for line in script("--plan", python=stand_in, ASKED=str(tmp_path / "asked")).stdout.splitlines():
        if " -k " in line:
            file, word = line.split(" -x ")[1].split(" -k ")
            assert f"def test_{word}" in (ROOT / file).read_text()
        for module in (throughput, kernels, train, head):
            program = f"bench/{module.__name__.split('.')[-1]}.py"
            if program in line:
                args = module._parser().parse_args(line.split(program)[1].split())
                assert args.json.name.startswith("fake-gpu-")
                if module is throughput:
                    assert set(args.engines.split(",")) <= set(throughput.ENGINES) and args.device == "cuda"
                    assert args.limit_s < 75 and args.max_batch == 1024


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    done = script()
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1 and "no CUDA device" in done.stderr
    assert script("--fast").returncode == 2


def test_a_part_that_fails_stops_nothing(stand_in, tmp_path):
    begin = time.monotonic()
    out = tmp_path / "out"
    out.mkdir()
    commit = (
        script("--plan", python=stand_in, ASKED=str(tmp_path / "asked")).stdout.split("fake-gpu-")[-1].split("-PART")[0]
    )
    (out / f"fake-gpu-{commit}-rivals.json").write_text("of an earlier run")
    done = script("--out", str(out), python=stand_in, ASKED=str(tmp_path / "asked"))
    assert time.monotonic() - begin < 60
    assert done.returncode == 1
    said = done.stdout.splitlines()
    assert [line.split(":")[0] for line in said if ": done" in line or ": FAILED" in line] == PARTS
    assert {line.split(":")[0] for line in said if "FAILED with status 3" in line} == {"smoke", "tests"}
    assert "    the reason" in said
    (written,) = out.iterdir()
    assert written.name.startswith("fake-gpu-") and written.name.endswith("-kernels.json")
    assert said[-1] == f"the table of {written}"


def _result(rows=(), kernels=(), figures=None, **settings):
    machine = Machine("a CPU", 4, (), 1000, "Linux", "a GPU")
    return Result("test", machine, {"torch": "2.11"}, "x", "2026-01-01", settings, figures or {}, rows, kernels)


def test_the_table(tmp_path, capsys):
    extra = {"device_idle_share": 0.031, "short_gap_share": 0.012, "kernel_shares": [["a kernel", 0.5, 24]]}
    ours = Row.of("rftfast", [Measure(2.0, 300_000, 3000, step_ms=6.5, extra=extra)])
    theirs = Row("vllm", "skipped", notes=("not installed",))
    _result((ours, theirs), model="shape:llama-3.2-1b").write(tmp_path / "a.json")
    time_ = KernelTime("decode attention", "a case", 0.04, 1e8, 1e9, "memory", 0.6, 1e-3, {"flash decode": 0.1})
    figures = {"copy bandwidth, GB/s": 4000.0, "bf16 products, TFLOP/s": 700.0}
    _result(kernels=(time_,), figures=figures).write(tmp_path / "b.json")
    assert gpu_table.main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    said = capsys.readouterr().out
    assert "a GPU; torch 2.11" in said
    ours_line = next(line for line in said.splitlines() if " rftfast " in line)
    assert "150,000" in ours_line and "3.1% (1.2%)" in ours_line and "6.50" in ours_line
    assert "50.0% in 24 launches of a kernel" in said and "not installed" in said
    kernel_line = next(line for line in said.splitlines() if "a case" in line)
    assert " 62.5%" in kernel_line and "2.50x  flash decode" in kernel_line  # 2.5 of 4 TB/s
    trained = Row.of("rftfast", [Measure(2.0, 80_000, 64, extra={"mfu": 0.42}, peak_memory_mib=9000)])
    replace(_result((trained, theirs), model="shape:llama-3.2-1b"), benchmark="train").write(tmp_path / "c.json")
    replace(_result((Row.of("plain", [Measure(2.0, 80_000, 64)]),)), benchmark="head").write(tmp_path / "d.json")
    assert gpu_table.main([str(tmp_path / "c.json"), str(tmp_path / "d.json")]) == 0
    said = capsys.readouterr().out
    assert "train shape:llama-3.2-1b, rftfast: 40,000 tokens/s, 42.0% of the peak, 9,000 MiB at most" in said
    assert "head, plain: 40,000 tokens/s\n" in said and "vllm: skipped: not installed" in said
    assert gpu_table.main([]) == 2 and gpu_table.main([str(tmp_path / "none.json")]) == 2
