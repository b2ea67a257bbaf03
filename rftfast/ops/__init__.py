"""One function per operation, one signature, several backends; chosen here, once.

``select`` returns an ``OpSet``: the functions a model runs on, and for each the backend's name and why it was taken.
Every backend is tested against the plain torch reference that stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rftfast.errors import UserError
from rftfast.ops import attention, copy_pages, linear, native, rms_norm, rope, sample, swiglu
from rftfast.ops.attention import AttentionPlan
from rftfast.ops.kv import PAGE, KVPool
from rftfast.ops.linear import Linear

__all__ = ["PAGE", "AttentionPlan", "KVPool", "OpSet", "select"]

_MODULES = {
    "attention": attention,
    "copy_pages": copy_pages,
    "rms_norm": rms_norm,
    "rope_write_kv": rope,
    "sample": sample,
    "swiglu": swiglu,
}


@dataclass(frozen=True)
class OpSet:
    """The operations of a model step. ``backends`` maps an operation's name to (backend, reason)."""

    attention: Callable[..., torch.Tensor]
    copy_pages: Callable[..., None]
    rms_norm: Callable[..., torch.Tensor]
    rope_write_kv: Callable[..., None]
    sample: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    swiglu: Callable[..., torch.Tensor]
    linear: Callable[..., torch.Tensor]
    prepare: Callable[..., Linear]
    """Puts a weight into the form that ``linear`` takes."""
    backends: dict[str, tuple[str, str]]


def select(
    device: torch.device | str, *, backend: str = "auto", invariant: bool = True, head_dim: int | None = None
) -> OpSet:
    """The operations for ``device``. ``backend``: auto, native or reference; ``head_dim``: the model's.

    Raises UserError if a backend asked for by name cannot run here.
    """
    kind = torch.device(device).type
    if backend not in ("auto", "native", "reference"):
        raise UserError(f"unknown backend '{backend}': choose auto, native or reference")
    missing = native.available() if kind == "cpu" else f"the native kernels run on CPUs, not on {kind}"
    if missing is None and head_dim is not None and head_dim % 16:
        missing = f"the native kernels need a head_dim that is a multiple of 16, and the model's is {head_dim}"
    if backend == "native" and missing:
        raise UserError(f"backend 'native' cannot run: {missing}")
    if backend == "reference":
        name, why = "reference", "asked for"
    elif missing:
        name, why = "reference", missing
    else:
        name, why = "native", f"C++ kernels, instruction set {native.load().isa()}"
    chosen: dict[str, Any] = {op: getattr(module, name) for op, module in _MODULES.items()}
    backends = dict.fromkeys(_MODULES, (name, why))
    chosen["linear"] = linear.invariant if invariant else linear.plain
    chosen["prepare"] = linear.prepare
    library = "oneDNN" if kind == "cpu" else "cuBLAS"
    backends["linear"] = ("torch", f"{library} through torch.nn.functional.linear" + (", rows padded" * invariant))
    return OpSet(**chosen, backends=backends)
