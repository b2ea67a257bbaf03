"""What named GPUs can do at most, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from rftfast.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """One GPU. Dense bf16 with fp32 accumulation, without sparsity."""

    name: str
    flops: float
    """Operations a second."""
    bandwidth: float
    """Bytes a second, of its memory."""
    memory: float
    """Bytes."""


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", 312e12, 1.555e12, 40e9),
        Gpu("A100-80GB", 312e12, 2.039e12, 80e9),
        Gpu("H100", 989e12, 3.35e12, 80e9),
        Gpu("H200", 989e12, 4.8e12, 141e9),
        Gpu("B200", 2250e12, 8.0e12, 180e9),
        Gpu("L4", 121e12, 0.3e12, 24e9),
        Gpu("L40S", 362e12, 0.864e12, 48e9),
        Gpu("RTX-4090", 165e12, 1.008e12, 24e9),
    )
}


def find_gpu(name: str) -> Gpu:
    """By name, upper or lower case. Raises UserError for one that is not in the table."""
    for known, gpu in GPUS.items():
        if name.lower() == known.lower():
            return gpu
    raise UserError(f"GPU {name!r} is not in the table; choose one of {', '.join(GPUS)}")
