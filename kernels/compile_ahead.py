"""Compiles every kernel of this folder for sm_80, sm_90 and sm_100, without a GPU, and tells what it takes.

``python -m rftfast.kernels.compile_ahead`` prints a table: registers a thread, bytes of local memory a thread (what the
compiler could not keep in registers: must be 0), shared memory a program, the programs that fit on a multiprocessor and
what limits them, matrix instructions and widest global loads in the machine code. A kernel file takes part by defining
``variants() -> list[Variant]``. Must not run in Triton's interpreter (TRITON_INTERPRET), which compiles nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import rftfast.kernels
from rftfast.kernels.variant import ARCHS, Variant

SHARED_PER_SM = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}  # bytes; CUDA C++ guide, "compute capabilities"
SHARED_PER_PROGRAM = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
REGISTERS_PER_SM = 65536
WARPS_PER_SM = 64
PROGRAMS_PER_SM = 32


@dataclass(frozen=True)
class Report:
    """What one variant takes on one architecture. ``local_bytes`` and ``registers`` a thread, ``shared_bytes`` a program;
    ``matrix``: tensor core instructions by name (HMMA, HGMMA, UTCHMMA); ``load_bits``: widest load from global memory."""

    name: str
    arch: int
    num_warps: int
    registers: int
    local_bytes: int
    shared_bytes: int
    matrix: dict[str, int]
    load_bits: int

    @property
    def programs_per_sm(self) -> tuple[int, str]:
        """Programs that fit on a multiprocessor at once, and what stops more."""
        a_warp = -(-self.registers * 32 // 256) * 256  # registers are given out to a warp in 256s
        limits = {
            "registers": REGISTERS_PER_SM // (a_warp * self.num_warps),
            "shared memory": SHARED_PER_SM[self.arch] // (self.shared_bytes + 1024),  # 1 KiB is the system's
            "warps": min(PROGRAMS_PER_SM, WARPS_PER_SM // self.num_warps),
        }
        least = min(limits, key=lambda name: limits[name])
        return limits[least], least


def compile_variant(variant: Variant, arch: int) -> Report:
    """Raises RuntimeError if the kernel does not compile, or takes more shared memory than a program may have."""
    kernel = variant.kernel
    if not isinstance(kernel, triton.runtime.JITFunction):
        raise RuntimeError(f"{variant.name} was loaded into Triton's interpreter: unset TRITON_INTERPRET")
    types = {name: variant.types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name in variant.types and name not in variant.unaligned and not types[name].startswith("fp")
    }
    source = ASTSource(kernel, types, constexprs=dict(variant.constants), attrs=aligned)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages, "enable_fp_fusion": True}
    compiled: Any = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    shared = compiled.metadata.shared
    if shared > SHARED_PER_PROGRAM[arch]:
        raise RuntimeError(f"{variant.name} takes {shared} bytes of shared memory, more than sm_{arch} has")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _cuobjdump("--dump-resource-usage", cubin)
        sass = _cuobjdump("--dump-sass", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump's report is not understood: {usage.strip()}")
    return Report(
        variant.name,
        arch,
        variant.num_warps,
        int(found[1]),
        int(found[2]) + int(found[3]),
        shared,
        _count(re.findall(r"\b(HMMA|HGMMA|UTCHMMA|UTCQMMA|QGMMA)\b", sass)),
        max((int(bits) for bits in re.findall(r"\b(?:LDG|LDGSTS)\.E(?:\.[A-Z]\w*)*?\.(\d+)\b", sass)), default=32),
    )


def _cuobjdump(option: str, cubin: Path) -> str:
    """Triton carries the tool, and the disassembler that it calls, in its package."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    done = subprocess.run(
        [tools / "cuobjdump", option, cubin],
        capture_output=True,
        text=True,
        env={"PATH": str(tools)},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"cuobjdump {option} failed: {done.stderr.strip()}")
    return done.stdout


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def all_variants() -> Iterator[Variant]:
    """Of every kernel file, in the order of their names."""
    for module in sorted(m.name for m in pkgutil.iter_modules(rftfast.kernels.__path__)):
        if module != "compile_ahead":
            loaded = importlib.import_module(f"rftfast.kernels.{module}")
            if hasattr(loaded, "variants"):
                yield from loaded.variants()


def table(reports: Iterable[Report]) -> str:
    lines = [
        f"{'kernel':<44} {'arch':>6} {'regs':>5} {'local':>6} {'shared':>7} {'a SM':>5} {'limit':<14} {'load':>4}  matrix"
    ]
    for r in reports:
        fit, limit = r.programs_per_sm
        matrix = " ".join(f"{name}x{count}" for name, count in sorted(r.matrix.items())) or "-"
        lines.append(
            f"{r.name:<44} sm_{r.arch:<3} {r.registers:>5} {r.local_bytes:>6} {r.shared_bytes:>7} {fit:>5} {limit:<14} "
            f"{r.load_bits:>4}  {matrix}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rftfast.kernels.compile_ahead", description=__doc__)
    parser.add_argument("names", nargs="*", help="only kernels whose name contains one of these")
    parser.add_argument("--arch", type=int, action="append", choices=ARCHS, help="only this one (may be repeated)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of the table")
    options = parser.parse_args(arguments)
    wanted = [v for v in all_variants() if not options.names or any(name in v.name for name in options.names)]
    reports = [compile_variant(v, arch) for v in wanted for arch in options.arch or ARCHS if arch in v.archs]
    print(json.dumps([asdict(r) for r in reports]) if options.json else table(reports))
    return 1 if any(r.local_bytes for r in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
