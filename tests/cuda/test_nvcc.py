"""nvcc takes the kernels, and they need nothing that the chip lacks: no spills, four blocks of the sampler at a time."""

import re
import shutil
import subprocess

import pytest

from rftfast.ops import cuda
from tests.cuda.conftest import CSRC

NVCC = shutil.which("nvcc")
REGISTERS = {"sample_kernel": 64, "gumbel_kernel": 64, "copy_kernel": 128, "stops_kernel": 32}
SAMPLER_BLOCKS = (
    4  # of 256 threads on a multiprocessor, so that enough loads are under way: 4 * 256 * 64 = all registers
)


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("arch", ["80", "90a"])
def test_kernels_compile_without_spills(tmp_path, arch, record_property):
    options = ["-std=c++17", "-O3", f"-gencode=arch=compute_{arch},code=sm_{arch}", "-Xptxas=-v,-warn-spills"]
    running = {}
    for source in sorted((CSRC / "cuda").glob("*.cu")):
        command = [NVCC, *options, "-c", str(source), "-o", str(tmp_path / f"{source.stem}.o")]
        running[source.stem] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    found = set()
    for name, process in running.items():
        report = process.communicate()[1]
        assert process.returncode == 0, report
        assert "warning" not in report, report
        kernels = re.split(r"Compiling entry function '", report)[1:]
        assert kernels, name
        for part in kernels:
            kernel = next(k for k in REGISTERS if k in part.splitlines()[0])
            stack, stores, loads = map(
                int,
                re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups(),
            )
            registers = int(re.search(r"Used (\d+) registers", part)[1])
            shared = int((re.search(r"(\d+) bytes smem", part) or [0, 0])[1])
            record_property(f"sm_{arch} {part.split(chr(39))[0]}", f"{registers} registers, {shared} bytes shared")
            assert (stack, stores, loads) == (0, 0, 0), part
            assert registers <= REGISTERS[kernel], part
            assert shared * SAMPLER_BLOCKS <= 16 << 10, part
            found.add(kernel)
    assert found == set(REGISTERS)


def test_the_built_module_imports_without_a_gpu():
    try:
        module = cuda.load()
    except ImportError as error:
        pytest.skip(f"not built: {error}")
    assert module.archs
    count, why = module.devices()
    assert (count > 0) != bool(why)
    assert module.sample_workspace(10, 50_000) > 10 * 50_000 // 64 * 4
    if count == 0:
        with pytest.raises(RuntimeError, match="check_stops"):
            module.check_stops(0, 0, 0, 0, 0, 0, 0, 0, 1, 1)
