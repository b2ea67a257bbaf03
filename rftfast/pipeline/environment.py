"""What this machine and installation are, for bug reports and result files."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from rftfast import ops
from rftfast.cores import usable_cores
from rftfast.engine.memory import free_memory, human
from rftfast.engine.sampler import choose_dtype
from rftfast.models.cache import cache_folder

_PACKAGES = (
    "rftfast",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "gguf",
    "numpy",
    "rapidfuzz",
    "triton",
    "flash-attn",
    "math-verify",
)
_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16")


def describe() -> dict[str, dict[str, str]]:
    """Sections of (name, value), ready to print."""
    return {
        "versions": _versions(),
        "machine": _machine(),
        "operations on cpu": {
            name: f"{backend}: {why}" for name, (backend, why) in sorted(ops.select("cpu").backends.items())
        },
        "gpu": _gpu(),
    }


def _versions() -> dict[str, str]:
    rows = {"python": f"{platform.python_version()} on {platform.platform()}"}
    for package in _PACKAGES:
        try:
            rows[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            rows[package] = "not installed"
    return rows


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    info = Path("/proc/cpuinfo")
    flags: set[str] = set()
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.lower().startswith(("flags", "features")):
                flags = set(line.split(":", 1)[1].split())
                break
    return [f for f in _FEATURES if f in flags]


def _machine() -> dict[str, str]:
    missing = ops.native.available()
    held = "in tiles (AMX)" if ops.linear.can_tile() else "blocked" if ops.linear.can_block() else "in rows"
    rows = {
        "cpu": f"{cpu_model()}, {usable_cores()} usable cores, torch uses {torch.get_num_threads()} threads",
        "features": " ".join(cpu_features()) or "unknown",
        "native kernels": missing or f"{', '.join(ops.native.load().isa_names())} (best first; the first is used)",
        "threads borrowed from": "-" if missing else ops.native.openmp_library() or "none found: one thread only",
        "dtype auto": str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch."),
        "bf16 weights": held,
        "memory free": human(free_memory(torch.device("cpu"))),
        "model cache": str(cache_folder()),
    }
    return rows | {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "unset")}


def _gpu() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {"cuda": f"no GPU (torch built with CUDA {torch.version.cuda or 'none'})"}
    rows = {}
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        rows[f"cuda:{i}"] = f"{p.name}, {human(p.total_memory)}, compute capability {p.major}.{p.minor}"
    rows["operations on cuda"] = ops.select("cuda").backends["attention"][0]
    rows["flash-attn"] = "installed" if importlib.util.find_spec("flash_attn") else "not installed"
    return rows
