"""Matrix products: our own on matrix tiles (AMX), else torch's (oneDNN on CPUs, cuBLAS on GPUs).

oneDNN picks its kernel by shape. With AVX-512 instructions each row's bfloat16 result was found to be the same to the bit
for 2 to 512 rows, whatever the other rows hold (a single row of many channels is added up in another order); in float32
only from about 10 rows on. So the invariant form pads to 2 and to 32 rows. Elsewhere (matrix tiles, AMX; MKL's float32
products on Intel) the order of a sum changes with the number of rows in ways that differ by shape; there the invariant
form always multiplies blocks of 128 rows, in which a row's place and neighbours were found not to matter. Which of the two
this machine needs is found out by a few small products (``fixed_blocks``).

On CPUs with tiles, bfloat16 weights whose channels are a multiple of 32 are packed for a kernel of our own (``csrc/cpu/tiles.h``), which adds up
every value in one order whatever the number of rows: no padding, and faster than oneDNN at the rows of a decode step. Other bfloat16
weights are kept in oneDNN's own blocked order where torch offers that, which saves reordering it in
every product (8 to 12 % at 100 rows) and gives the same bits (tests/ops/test_linear.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rftfast.ops import native

MAX_ROWS = 512  # a step has no more rows than this
_MIN_ROWS = {torch.float32: 32, torch.bfloat16: 2}
_BLOCK_ROWS = 128
_TYPICAL_ROWS = 100  # a hint for the block shape; any number of rows works
_TILE_CHANNELS, _PANEL_OUTPUTS = 32, 32  # csrc/cpu/tiles.h


@dataclass(frozen=True)
class Linear:
    """A weight [O, C] with its bias [O] or None. ``layout``: "rows" as it is; "blocked" in oneDNN's order; "tiles", packed for
    the tile kernel, [ceil(O / 32) * 32 * C] with ``outputs`` = O; "fp8" and "fp8 in float32" as ``ops.fp8`` has them, the
    former with ``scale`` [1, O] float32."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    layout: str = "rows"
    outputs: int = 0
    scale: torch.Tensor | None = None


def prepare(weight: torch.Tensor, bias: torch.Tensor | None, tiles: bool = True) -> Linear:
    """The weight [O, C] in the fastest form that this machine multiplies by. ``tiles``: our own kernel may be taken."""
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16:
        if tiles and weight.shape[1] % _TILE_CHANNELS == 0 and can_tile():
            return _packed(weight, bias)
        if can_block():
            return Linear(torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS), bias, "blocked")
    return Linear(weight, bias)


@functools.cache
def can_tile() -> bool:
    """Whether this processor multiplies bfloat16 tiles (AMX), and our kernel for them is built."""
    return native.available() is None and bool(native.load().tiles_available())


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    outputs, channels = weight.shape
    weight = weight.contiguous()
    packed = torch.empty(_packed_size(outputs, channels), dtype=torch.bfloat16)
    native.load().pack_tiles(native.pointer(weight), native.pointer(packed), outputs, channels)
    return Linear(packed, None if bias is None else bias.contiguous(), "tiles", outputs)


def _packed_size(outputs: int, channels: int) -> int:
    return -(-outputs // _PANEL_OUTPUTS) * _PANEL_OUTPUTS * channels


def _on_tiles(x: torch.Tensor, linear: Linear) -> torch.Tensor:
    rows, channels = x.shape
    assert x.dtype == torch.bfloat16 and x.device.type == "cpu"
    assert linear.weight.numel() == _packed_size(linear.outputs, channels)
    if x.stride(1) != 1:
        x = x.contiguous()
    out = torch.empty((rows, linear.outputs), dtype=torch.bfloat16)
    pointers = (native.pointer(linear.weight), native.pointer(linear.bias), native.pointer(out))
    native.load().tile_linear(native.pointer(x), x.stride(0), *pointers, rows, linear.outputs, channels)
    return out


def can_block() -> bool:
    """Whether this torch has the operators that inference compilers use for blocked weights, and oneDNN bf16."""
    return (
        hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def plain(x: torch.Tensor, linear: Linear) -> torch.Tensor:
    """``x`` [R, C] times the weight transposed, plus the bias: [R, O]."""
    if linear.layout == "tiles":
        return _on_tiles(x, linear)
    if linear.layout == "blocked":
        return torch.ops.mkldnn._linear_pointwise(x, linear.weight, linear.bias, "none", [], "")
    return F.linear(x, linear.weight, linear.bias)


def invariant(x: torch.Tensor, linear: Linear) -> torch.Tensor:
    """As ``plain``, and a row's result does not depend on how many other rows there are."""
    if linear.layout == "tiles":
        return _on_tiles(x, linear)
    rows = x.shape[0]
    if x.device.type == "cpu" and fixed_blocks(x.dtype):
        if rows == _BLOCK_ROWS:
            return plain(x, linear)
        if rows < _BLOCK_ROWS:
            return plain(F.pad(x, (0, 0, 0, _BLOCK_ROWS - rows)), linear)[:rows]
        return torch.cat([invariant(block, linear) for block in x.split(_BLOCK_ROWS)])
    least = _MIN_ROWS[x.dtype]
    if rows < least:
        return plain(F.pad(x, (0, 0, 0, least - rows)), linear)[:rows]
    return plain(x, linear)


def triton(x: torch.Tensor, linear: Linear) -> torch.Tensor:
    """As ``invariant``, for GPUs, where no library promises it: one kernel with fixed tiles for any number of rows."""
    from rftfast.kernels import linear as kernel  # not before it is needed: CPUs have no Triton

    rows, channels = x.shape
    weight, bias = linear.weight, linear.bias
    outputs = weight.shape[0]
    assert x.is_contiguous() and weight.is_contiguous() and weight.shape == (outputs, channels)
    assert x.dtype == weight.dtype and (bias is None or (bias.dtype == x.dtype and bias.is_contiguous()))
    out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    if rows:
        launch = kernel.options(x.element_size())
        tiles = -(-rows // launch["BLOCK_M"]) * -(-outputs // launch["BLOCK_N"])
        kernel.linear[(tiles,)](
            x,
            weight,
            weight if bias is None else bias,
            out,
            rows,
            OUTPUTS=outputs,
            CHANNELS=channels,
            HAS_BIAS=bias is not None,
            **launch,
        )
    return out


@functools.cache
def fixed_blocks(dtype: torch.dtype) -> bool:
    """Whether a row's product depends on how many rows there are (from the least on), so that the number must be fixed."""
    generator = torch.Generator().manual_seed(0)
    for outputs, inputs in ((576, 576), (3072, 576), (576, 1536), (256, 4096)):
        weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
        x = torch.randn(MAX_ROWS, inputs, generator=generator).to(dtype)
        whole = F.linear(x, weight)
        for rows in (2, 8, 24, 32, 48, 65, 100, 200, 320):
            if rows >= _MIN_ROWS[dtype] and not torch.equal(F.linear(x[:rows], weight), whole[:rows]):
                return True
    return False
