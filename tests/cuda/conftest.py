"""The CUDA kernels without a GPU: ``csrc/cuda``, bindings and all, compiled for the CPU with ``emulator/`` in place of
the CUDA toolkit, and ``rftfast.ops`` made to call them."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from rftfast.ops import cuda

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
EMULATOR = Path(__file__).parent / "emulator"
# No contraction of a * b + c: the sampler's bits are those of single roundings, as on the GPU.
FLAGS = ["-std=c++17", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
SOURCES = {  # with the optimisation that is worth its time
    CSRC / "cuda/module.cpp": "-O0",
    CSRC / "cuda/sampler.cu": "-O2",
    CSRC / "cuda/copy_pages.cu": "-O1",
    CSRC / "cuda/check_stops.cu": "-O1",
    EMULATOR / "emulator.cpp": "-O2",
    EMULATOR / "probes.cpp": "-O1",
}


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """``module``, the emulated ``_cuda``; ``library``, its plain C functions (``set_seed``, ``scalar_weights``)."""
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed: its headers are needed")
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("emulator")
    python = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    common = [compiler, *FLAGS, "-Wno-unknown-pragmas", f"-I{EMULATOR}", *python, '-DRFT_CUDA_ARCHS="emulator"']
    objects, running = [], []
    for source, optimise in SOURCES.items():
        objects.append(folder / f"{source.stem}.o")
        command = [*common, optimise, "-x", "c++", "-c", str(source), "-o", str(objects[-1])]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for process in running:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    path = folder / "_cuda.so"
    subprocess.run([compiler, "-shared", *map(str, objects), "-o", str(path)], check=True)
    spec = importlib.util.spec_from_file_location("_cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    library = ctypes.CDLL(str(path))
    library.set_seed.argtypes = [ctypes.c_uint64]
    library.scalar_weights.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    return SimpleNamespace(module=module, library=library)


@pytest.fixture(params=[0, 1], ids=["order 0", "order 1"])
def on_emulator(emulated, monkeypatch, request):
    """``rftfast.ops``' cuda functions run in the emulator, on CPU tensors; once for each of two orders of threads."""
    emulated.library.set_seed(request.param)
    monkeypatch.setattr(cuda, "load", lambda: emulated.module)
    monkeypatch.setattr(cuda, "call", lambda name, device, *a: getattr(emulated.module, name)(0, 0, *a))
    return emulated
