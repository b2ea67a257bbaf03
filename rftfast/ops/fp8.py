"""Matrix products in float8 (e4m3), for the layers of a model: half the bytes of bfloat16, and twice its rate on Hopper.

A weight [O, C] has a scale for each output, found once; a row of activations has its own, found when it is multiplied (W8A8
with dynamic scales for each token, which vLLM calls ``fp8``). Values over their scale lie within +-448 and are rounded to
nearest; products are summed in float32 and scaled. Micikevicius et al., "FP8 formats for deep learning" (arXiv 2209.05433).

On GPUs this is torch's ``_scaled_mm``. Elsewhere the same arithmetic is done in float32, so that its accuracy can be
measured on any machine; that is an emulation, and slower than no quantisation at all.

Keys and values can be kept in float8, too, whatever the products are in: see ``ops.kv`` and ``models.kv_scales``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from rftfast.errors import UserError
from rftfast.ops.linear import Linear

LARGEST = 448.0
LEAST = 1e-12
"""A row without anything larger is taken to have this, so that no scale is 0."""
NAMES = ("fp8",)
KV_CACHE = ("auto", "fp8")
"""What keys and values are kept in: the model's own type, or float8."""
_MULTIPLE = 16  # of both sides of a weight, on GPUs
_ARCH = (8, 9)  # compute capability: the first with float8 products


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` [R, C] -> float8 [R, C] and scales [R, 1] float32; ``x`` is nearly their product."""
    wide = x.float()
    largest = wide.abs().amax(1, keepdim=True).clamp(min=LEAST)
    inverse = torch.tensor(LARGEST) / largest  # rounded once: of a plain number torch multiplies the reciprocal
    return (wide * inverse).to(torch.float8_e4m3fn), largest / LARGEST


def missing(device: torch.device | str, invariant: bool) -> str | None:
    """Why products in float8 cannot run on ``device``, or None where they can."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    if invariant:
        return "its kernels choose by the number of rows how they add up, and the invariant mode may not: use --no-invariant"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    return _too_old(device)


def in_kv_cache(name: str, device: torch.device) -> bool:
    """Whether ``name``, one of ``KV_CACHE``, is float8. Raises UserError if ``device`` has none, or there is no such name."""
    if name not in KV_CACHE:
        raise UserError(f"unknown dtype '{name}' for keys and values: choose {' or '.join(KV_CACHE)}")
    if name == "fp8" and device.type == "cuda" and (why_not := _too_old(device)):
        raise UserError(f"--kv-cache-dtype fp8 cannot run on {device}: {why_not}")
    return name == "fp8"


def kept_in_pages(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What pages of float8 keys and values hold: on CPUs, where it is emulated, the model's ``dtype`` (``ops.kv``)."""
    return torch.float8_e4m3fn if device.type == "cuda" else dtype


def marks(quantization: str | None, kv_cache_dtype: str | None) -> str:
    """How a model's dtype goes on in manifests and logs: nothing, +fp8, +kv-fp8 or both."""
    kept = "" if kv_cache_dtype in (None, "auto") else f"+kv-{kv_cache_dtype}"
    return ("" if quantization is None else f"+{quantization}") + kept


def _too_old(device: torch.device) -> str | None:
    found = torch.cuda.get_device_capability(device)
    if found < _ARCH:
        return f"the GPU has compute capability {found[0]}.{found[1]} and float8 begins with {_ARCH[0]}.{_ARCH[1]}"
    return None


def prepare(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """The weight [O, C] as ``product`` takes it on its device. Raises UserError for a shape that a GPU does not multiply."""
    quantized, scale = quantize(weight)
    if weight.device.type != "cuda":
        return Linear(quantized.float() * scale, bias, "fp8 in float32")
    if weight.shape[0] % _MULTIPLE or weight.shape[1] % _MULTIPLE:
        raise UserError(
            f"--quantization fp8: a weight of this model is {weight.shape[0]} x {weight.shape[1]}, and the GPU's float8 "
            f"products take multiples of {_MULTIPLE}: leave it out"
        )
    return Linear(quantized, bias, "fp8", scale=scale.T.contiguous())


def product(x: torch.Tensor, linear: Linear, others: Callable[[torch.Tensor, Linear], torch.Tensor]) -> torch.Tensor:
    """``x`` [R, C] times the weight transposed, plus the bias: [R, O]. ``others``: for weights that are not quantised, and for
    the emulation's products in float32."""
    if linear.layout == "fp8":
        return _cuda(x, linear)
    if linear.layout != "fp8 in float32":
        return others(x, linear)
    quantized, scale = quantize(x)
    out = others(quantized.float(), Linear(linear.weight, None)) * scale
    if linear.bias is not None:
        out += linear.bias.float()
    return out.to(x.dtype)


def _cuda(x: torch.Tensor, linear: Linear) -> torch.Tensor:
    assert x.is_contiguous() and x.dtype == torch.bfloat16 and linear.scale is not None
    if not len(x):
        return x.new_empty((0, linear.weight.shape[0]))
    quantized, scale = _quantize_rows(x)
    # With fast accumulation, as the engines do: sums are kept to 14 bits or so on the way, the operands have 4.
    return torch._scaled_mm(
        quantized, linear.weight.t(), scale, linear.scale, linear.bias, out_dtype=x.dtype, use_fast_accum=True
    )


def _quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``quantize``, in one launch."""
    from rftfast.kernels import quantize_rows as kernel  # not before it is needed: CPUs have no Triton

    rows, channels = x.shape
    assert x.is_contiguous()
    out = torch.empty((rows, channels), dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    block, warps = kernel.shape(channels)
    kernel.quantize_rows[(rows,)](x, out, scale, channels, block, num_warps=warps)
    return out, scale
