"""What a CUDA device runs: the C++ kernels of ``csrc/cuda`` (module ``_cuda``) and Triton's; loading and calling them.

Both put their work on torch's current stream and wait for nothing, so they can be captured in a CUDA graph. The process
makes its device the current one (``torch.cuda.set_device``): Triton launches on that.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
_LEAST = (8, 0)  # compute capability: A100 and later


@functools.cache
def load() -> Any:
    """The CUDA module. Raises ImportError where it was not built. Imports without a GPU, too."""
    return importlib.import_module("rftfast._cuda")


def available(device: torch.device | str = "cuda") -> str | None:
    """Why the CUDA kernels cannot run on ``device``, or None when they can."""
    try:
        kernels = load()
    except ImportError as error:
        return f"the CUDA kernels are not built: install where nvcc is found, with RFTFAST_CUDA=ON to see why ({error})"
    missing = _device_missing(device)
    if missing is None:
        count, why = kernels.devices()
        missing = None if count else f"the CUDA runtime that the kernels are linked with finds no device ({why})"
    return missing


def triton_available(device: torch.device | str = "cuda") -> str | None:
    """Why Triton kernels cannot run on ``device``, or None when they can."""
    if importlib.util.find_spec("triton") is None:
        return "the package 'triton' is not installed"
    return _device_missing(device)


def _device_missing(device: torch.device | str) -> str | None:
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    index = torch.device(device).index or 0
    if index >= torch.cuda.device_count():
        return f"there is no CUDA device {index}: torch finds {torch.cuda.device_count()}"
    capability = torch.cuda.get_device_capability(index)
    if capability < _LEAST:
        return f"the GPU has compute capability {capability[0]}.{capability[1]} and the kernels need {_LEAST[0]}.{_LEAST[1]}"
    return None


def call(name: str, device: torch.device, *arguments: int | float) -> None:
    """Calls ``_cuda.name`` on torch's current stream of ``device``. Raises RuntimeError if the launch fails."""
    getattr(load(), name)(device.index, torch.cuda.current_stream(device).cuda_stream, *arguments)
