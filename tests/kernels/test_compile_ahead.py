"""Every kernel compiles for each architecture without a GPU, keeps to its registers, and uses what the chip has."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from rftfast.kernels import compile_ahead
from rftfast.kernels.compile_ahead import Report, compile_variant, table
from rftfast.kernels.prefix_attention import programs_per_sm
from rftfast.kernels.variant import ARCHS, Variant

# In another process, and not in the interpreter.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
COMMAND = [sys.executable, "-W", "ignore", "-m", "rftfast.kernels.compile_ahead"]


@pytest.fixture(scope="module")
def reports():
    running = [
        subprocess.Popen([*COMMAND, "--json", "--arch", str(arch)], stdout=subprocess.PIPE, env=ENVIRONMENT)
        for arch in ARCHS
    ]
    found = []
    for process in running:
        output, _ = process.communicate(timeout=600)
        assert process.returncode in (0, 1), "the compiler failed; its message is above"  # 1: something was spilled
        found += [Report(**fields) for fields in json.loads(output)]
    print(table(found))
    return found


def test_every_kernel_compiles_for_every_architecture(reports):
    archs = defaultdict(set)
    for report in reports:
        archs[report.name.split()[0]].add(report.arch)
    assert {"prefix_attention", "suffix_attention", "prefill_attention", "scatter_words", "begin_step"} <= set(archs)
    assert archs.pop("quantize_rows") == {90, 100}, "float8 begins behind sm_80"
    assert all(found == set(ARCHS) for found in archs.values()), archs


def test_nothing_is_spilled(reports):
    assert [r for r in reports if r.local_bytes] == []


def test_attention_runs_on_the_tensor_cores_and_reads_wide(reports):
    wanted = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}
    for report in reports:
        if "attention" in report.name and "float32" not in report.name:
            assert report.load_bits == 128, report.name
            # Sixteen queries are too few for a warpgroup's instruction: the suffix's bound is memory.
            instruction = "HMMA" if report.name.startswith("suffix") else wanted[report.arch]
            assert list(report.matrix) == [instruction], (report.name, report.arch)


def test_as_many_programs_fit_as_are_counted_on(reports):
    """The prefix launch starts as many as fit at once; the others need several to hide what one waits for."""
    for report in (r for r in reports if "attention" in r.name and r.arch != 80):
        head_dim = int(re.search(r" d(\d+) ", report.name)[1])
        if report.name.startswith("prefix"):
            wanted = programs_per_sm(head_dim, 4 if "float32" in report.name else 2)
        else:
            wanted = 4 if report.name.startswith("suffix") else 2
        programs, limit = report.programs_per_sm
        assert programs >= wanted, (report.name, report.arch, programs, limit)


def test_programs_per_sm():
    def fit(registers, shared, warps):
        return Report("k", 90, warps, registers, 0, shared, {}, 128).programs_per_sm

    assert fit(32, 0, 1) == (32, "warps")
    assert fit(128, 0, 4) == (4, "registers")
    assert fit(129, 0, 4) == (3, "registers")  # rounded up to 136
    assert fit(32, 100 << 10, 4) == (2, "shared memory")
    assert fit(255, 0, 8) == (1, "registers")


def test_the_table_as_a_command_prints_it():
    done = subprocess.run(
        [*COMMAND, "scatter_words", "--arch", "90"], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()
    assert head.split()[:4] == ["kernel", "arch", "regs", "local"] and row.split()[:2] == ["scatter_words", "sm_90"]


def test_a_spill_fails_the_command(monkeypatch, capsys):
    spilled = Report("k", 90, 4, 255, 8, 0, {"HGMMA": 3}, 128)
    kernel = type("Kernel", (), {"arg_names": ["x"]})()
    monkeypatch.setattr(compile_ahead, "all_variants", lambda: iter([Variant("k", kernel, {"x": "*bf16"})]))
    monkeypatch.setattr(compile_ahead, "compile_variant", lambda variant, arch: spilled)
    assert compile_ahead.main(["--arch", "90"]) == 1
    assert "HGMMAx3" in capsys.readouterr().out


def test_variants_name_their_kernels_arguments():
    kernel = type("Kernel", (), {"arg_names": ["x", "BLOCK"]})()
    Variant("k", kernel, {"x": "*bf16"}, {"BLOCK": 16})
    with pytest.raises(AssertionError, match=r"k: arguments that differ from the kernel's: \['BLOCK'\]"):
        Variant("k", kernel, {"x": "*bf16"})
    with pytest.raises(AssertionError, match="not among its arguments"):
        Variant("k", kernel, {"x": "*bf16"}, {"BLOCK": 16}, unaligned=("y",))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="kernels are loaded for a GPU here")
def test_an_interpreted_kernel_is_refused():
    from rftfast.kernels.work_list import variants

    with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
        compile_variant(variants()[0], 90)
