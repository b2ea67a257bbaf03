"""Facts about this machine and the versions of what is measured on it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from bench.schema import Machine

# The instruction sets that decide how fast a language model runs, as Linux names them.
FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "asimd",
    "bf16",
    "sve",
)
PACKAGES = (
    "rftfast",
    "torch",
    "triton",
    "transformers",
    "accelerate",
    "trl",
    "llama-cpp-python",
    "vllm",
    "sglang",
    "flash-attn",
    "flashinfer-python",
    "numpy",
    "gguf",
    "tokenizers",
)


def machine(accelerator: str | None = None) -> Machine:
    """This machine. ``features`` and the CPU's name come from Linux's /proc/cpuinfo; elsewhere they may be empty."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        features=tuple(name for name in FEATURES if name in flags),
        memory_mib=pages * page // 2**20,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        accelerator=accelerator,
    )


def usable_cores() -> int:
    """Cores this process may run on (its affinity, where the system tells)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Python's version and those of the packages measured; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo, or nothing where there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
