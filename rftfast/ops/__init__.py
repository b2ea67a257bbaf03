"""One function per operation, one signature, several backends; chosen here, once.

``select`` returns an ``OpSet``: the functions a model runs on, and for each the backend's name and why it was taken.
Every backend is tested against the plain torch reference that stands beside it. A backend is a function of that name in
the operation's module: ``native`` (C++, CPUs), ``triton`` and ``cuda`` (GPUs), ``reference`` (any device).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from rftfast.errors import UserError
from rftfast.ops import attention, copy_pages, cuda, fp8, linear, native, rms_norm, rope, sample, stops, swiglu
from rftfast.ops.attention import AttentionPlan
from rftfast.ops.kv import PAGE, KVPool
from rftfast.ops.linear import Linear

__all__ = ["PAGE", "AttentionPlan", "KVPool", "OpSet", "select"]

_log = logging.getLogger(__name__)

_MODULES = {
    "attention": attention,
    "check_stops": stops,
    "copy_pages": copy_pages,
    "rms_norm": rms_norm,
    "rope_write_kv": rope,
    "sample": sample,
    "swiglu": swiglu,
}
_BACKENDS = {"cpu": ("native",), "cuda": ("triton", "cuda")}  # of a kind of device, preferred first
_NAMES = ("auto", "native", "triton", "cuda", "reference")


@dataclass(frozen=True)
class OpSet:
    """The operations of a model step. ``backends`` maps an operation's name to (backend, reason)."""

    attention: Callable[..., torch.Tensor]
    check_stops: Callable[..., torch.Tensor]
    copy_pages: Callable[..., None]
    rms_norm: Callable[..., torch.Tensor]
    rope_write_kv: Callable[..., None]
    sample: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    swiglu: Callable[..., torch.Tensor]
    linear: Callable[..., torch.Tensor]
    prepare: Callable[..., Linear]
    """Puts a weight into the form that ``linear`` takes."""
    prepare_layer: Callable[..., Linear]
    """As ``prepare``, for the weights of the layers: these may be quantised."""
    quantization: str | None
    """None, or fp8 (``ops.fp8``)."""
    backends: dict[str, tuple[str, str]]


def select(
    device: torch.device | str,
    *,
    backend: str = "auto",
    invariant: bool = True,
    head_dim: int | None = None,
    quantization: str | None = None,
) -> OpSet:
    """The operations for ``device``. ``backend``: auto, native, triton, cuda or reference; ``head_dim``: the model's.
    ``quantization``: None, or fp8 for the products of the layers.

    A backend asked for by name runs every operation that it has; the others take what auto takes: the device's own kernel,
    or else the reference.

    Raises UserError if a backend asked for by name, or the quantisation, cannot run here.
    """
    kind = torch.device(device).type
    if backend not in _NAMES:
        raise UserError(f"unknown backend '{backend}': choose {', '.join(_NAMES[:-1])} or {_NAMES[-1]}")
    missing = {name: _missing(name, device, head_dim) for name in _NAMES[1:-1]}
    if missing.get(backend):
        raise UserError(f"backend '{backend}' cannot run: {missing[backend]}")
    if quantization not in (None, *fp8.NAMES):
        raise UserError(f"unknown quantization '{quantization}': there is {', '.join(fp8.NAMES)}")
    if quantization is not None and (why_not := fp8.missing(device, invariant)):
        raise UserError(f"--quantization {quantization} cannot run on {device}: {why_not}")
    chosen: dict[str, Any] = {}
    backends: dict[str, tuple[str, str]] = {}
    for op, module in _MODULES.items():
        name, why = _choose(module, kind, backend, missing)
        chosen[op] = getattr(module, name)
        backends[op] = name, why
        if kind == "cuda" and name == "reference" != backend:
            _log.warning("%s on %s runs as plain torch, which is slow: %s", op, device, why)
    tiles = kind == "cpu" and backend != "reference" and linear.can_tile()
    chosen["prepare"] = partial(linear.prepare, tiles=tiles)
    library = "oneDNN" if kind == "cpu" else "cuBLAS"
    backends["linear"] = ("torch", f"{library} through torch.nn.functional.linear" + (", rows padded" * invariant))
    if tiles:
        backends["linear"] = ("native", f"C++ on matrix tiles (AMX) in bfloat16, else {backends['linear'][1]}")
    chosen["linear"] = linear.invariant if invariant else linear.plain
    if invariant and kind == "cuda" and missing["triton"] is None and backend != "reference":
        chosen["linear"], backends["linear"] = linear.triton, ("triton", f"{_describe('triton')}, fixed tiles")
    chosen["prepare_layer"] = chosen["prepare"]
    if quantization is not None:
        chosen["prepare_layer"], chosen["linear"] = fp8.prepare, partial(fp8.product, others=chosen["linear"])
        how = "torch._scaled_mm" if kind == "cuda" else "emulated in float32, for accuracy: it is slow"
        backends["linear of layers"] = ("torch", f"float8 (e4m3) weights and activations: {how}")
    for op, (name, why) in sorted(backends.items()):
        _log.info("%s on %s: %s (%s)", op, device, name, why)
    return OpSet(**chosen, quantization=quantization, backends=backends)


def _choose(module: Any, kind: str, backend: str, missing: dict[str, str | None]) -> tuple[str, str]:
    """Backend and reason for one operation."""
    if backend == "reference":
        return "reference", "asked for"
    own = [name for name in _BACKENDS.get(kind, ()) if hasattr(module, name)]
    for name in sorted(own, key=lambda name: name != backend):  # the one asked for first
        if missing[name] is None:
            return name, _describe(name)
    return "reference", str(missing[own[0]]) if own else f"there is no kernel of it for {kind}"


def _missing(name: str, device: torch.device | str, head_dim: int | None) -> str | None:
    """Why a backend cannot run, or None when it can."""
    kind = torch.device(device).type
    where = {"native": "cpu"}.get(name, "cuda")
    if kind != where:
        return f"the {name} kernels run on {'CPUs' if where == 'cpu' else 'CUDA devices'}, not on {kind}"
    if head_dim is not None and head_dim % 16:
        return f"the {name} kernels need a head_dim that is a multiple of 16, and the model's is {head_dim}"
    if name == "native":
        return native.available()
    return cuda.available(device) if name == "cuda" else cuda.triton_available(device)


def _describe(name: str) -> str:
    if name == "native":
        return f"C++ kernels, instruction set {native.load().isa()}"
    return f"CUDA kernels for {cuda.load().archs}" if name == "cuda" else f"Triton {version('triton')}"
