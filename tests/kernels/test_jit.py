"""Triton's own way from a call to a kernel, which the interpreter does not take: arguments are bound and specialised, and a
kernel is compiled when it is called with new ones. Inside a CUDA graph's capture that must not happen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
from tests.tiny_model import write_tiny_llama

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | {
    "PYTHONPATH": str(ROOT)
}


@pytest.mark.parametrize(("dtype", "product"), [("bfloat16", "plain"), ("float32", "triton"), ("bfloat16", "fp8")])
def test_all_is_compiled_before_it_is_captured(tmp_path, dtype, product):
    folder = write_tiny_llama(tmp_path / "model", hidden=128, layers=2)
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests/kernels/jit_without_gpu.py")]
    done = subprocess.run(
        [*command, str(folder), dtype, product], capture_output=True, text=True, check=False, env=ENVIRONMENT, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    first = found["compiled"].index("capture")
    kernels = {"scatter_words", "begin_step", "rms_norm", "rope_write_kv", "prefix_attention", "suffix_attention"}
    kernels |= {"prefill_attention", "swiglu", *{"triton": ["linear"], "fp8": ["quantize_rows"]}.get(product, [])}
    assert set(found["compiled"][:first]) == kernels
    assert found["compiled"][first:] == ["capture"] * found["graphs"], "compiled for another number of rows"
