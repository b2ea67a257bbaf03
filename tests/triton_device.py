"""Where tests run Triton kernels: on the GPU if there is one, else in Triton's interpreter, on the CPU.

``tests/conftest.py`` chooses: Triton must know before it is loaded, and parts of torch load it. Tests of compilation, of
which the interpreter knows nothing, run ``rftfast.kernels.compile_ahead`` in another process.
"""

import os
from typing import Any

import numpy as np
import torch

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def _teach_small_floats() -> None:
    """The interpreter keeps bfloat16 as 16-bit integers; it multiplies matrices of these integers, and cuts values off
    where a GPU rounds to nearest, to bfloat16 and to float8. From here on it does as a GPU."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain_dot: Any = InterpreterBuilder.create_dot
    plain_cast: Any = InterpreterBuilder.cast_impl
    plain_fp_to_fp: Any = InterpreterBuilder.create_fp_to_fp

    def widened(bits: np.ndarray) -> np.ndarray:
        return (bits.astype(np.uint32) << 16).view(np.float32)

    def rounded(values: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(values).view(np.uint32)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # ties to even
        return np.where(np.isnan(values), 0x7FC0, nearest).astype(np.uint16)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        operands = (TensorHandle(widened(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return plain_dot(self, *operands, *others)

    def cast_impl(self: Any, source: Any, dtype: Any) -> Any:
        kinds = source.dtype.scalar, dtype.scalar
        if kinds == (tl.bfloat16, tl.float32):
            return TensorHandle(widened(source.data), tl.float32)
        if kinds == (tl.float32, tl.bfloat16):
            return TensorHandle(rounded(source.data), tl.bfloat16)
        return plain_cast(self, source, dtype)

    def create_fp_to_fp(self: Any, source: Any, dtype: Any, *how: Any) -> Any:
        if (source.dtype.scalar, dtype.scalar) == (tl.float32, tl.float8e4nv):
            nearest = torch.from_numpy(np.ascontiguousarray(source.data)).to(torch.float8_e4m3fn)
            return TensorHandle(nearest.view(torch.uint8).numpy(), tl.float8e4nv)
        return plain_fp_to_fp(self, source, dtype, *how)

    InterpreterBuilder.create_dot = create_dot
    InterpreterBuilder.create_fp_to_fp = create_fp_to_fp
    InterpreterBuilder.cast_impl = cast_impl


if DEVICE == "cpu":
    _teach_small_floats()
