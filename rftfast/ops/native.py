"""The C++ kernels: loading them and lending them torch's threads.

``csrc`` links no OpenMP. Its parallel loops run on the pool that torch has already started, whose entry points are
looked up in the libraries this process has mapped; a second pool on the same cores would spin against torch's.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from pathlib import Path
from typing import Any

import torch

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


def _openmp_symbols() -> tuple[int, int, str] | None:
    """Addresses of GOMP_parallel and omp_get_thread_num in torch's OpenMP runtime, and that library's file name."""
    candidates: list[str] = []
    maps = Path("/proc/self/maps")
    if maps.is_file():
        files = {line.split()[-1] for line in maps.read_text().splitlines() if "/" in line}
        candidates += sorted(f for f in files if "omp" in Path(f).name and ".so" in Path(f).name)
        candidates.sort(key=lambda f: "torch" not in f)  # torch's own first
    for file in candidates:
        library = ctypes.CDLL(file)
        try:
            parallel, number = library.GOMP_parallel, library.omp_get_thread_num
        except AttributeError:
            continue
        return (
            ctypes.cast(parallel, ctypes.c_void_p).value or 0,
            ctypes.cast(number, ctypes.c_void_p).value or 0,
            file,
        )
    return None


@functools.cache
def load() -> Any:
    """The native module, its loops bound to torch's threads. Raises ImportError where it was not built."""
    _native: Any = importlib.import_module("rftfast._native")

    torch.set_num_threads(torch.get_num_threads())  # makes torch load and size its pool
    found = _openmp_symbols()
    if found is not None:
        _native.set_openmp(found[0], found[1])
    _native.set_threads(torch.get_num_threads())
    return _native


def available() -> str | None:
    """Why the native kernels cannot run here, or None when they can."""
    try:
        load()
    except ImportError as error:
        return f"the native module is not built ({error})"
    return None


def multiplies_bf16() -> bool:
    """Whether the kernels run on bfloat16 instructions here: then it is faster than float32."""
    return available() is None and load().isa() in ("amx", "avx512_bf16")


def openmp_library() -> str | None:
    """File name of the OpenMP runtime whose threads the kernels use (for ``rftfast doctor``)."""
    found = _openmp_symbols()
    return Path(found[2]).name if found else None


def set_threads(n: int) -> None:
    """Threads of torch's matrix products and, where they are built, of the native kernels alike."""
    torch.set_num_threads(n)
    if available() is None:
        load().set_threads(n)


def pointer(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
