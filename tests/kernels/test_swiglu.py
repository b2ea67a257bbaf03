"""SwiGLU in Triton against float64."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from rftfast.ops import swiglu
from tests.kernels.rounding import assert_rounded
from tests.triton_device import DEVICE

DTYPES = [torch.float32, torch.bfloat16]
# exp in float32, with an argument up to 30 rounded once: 30 * 6e-8 relative, and a few roundings more.
SLACK = 4e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (3, 17), (2, 1024), (2, 1536), (1, 3000)])
def test_is_the_reference(rows, channels, dtype):
    gate_up = (torch.randn(rows, 2 * channels, generator=torch.Generator().manual_seed(rows)) * 5).to(dtype).to(DEVICE)
    out = torch.full((rows, channels), torch.nan, dtype=dtype, device=DEVICE)
    assert swiglu.triton(gate_up, out) is out
    exact = swiglu.reference(gate_up, torch.empty(rows, channels, dtype=torch.float64, device=DEVICE))
    assert_rounded(out, exact, SLACK * exact.abs() + 1e-35)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # the interpreter says so; a GPU does not
def test_large_gates():
    """Far out on both sides the gate is the identity or nothing."""
    gate = torch.tensor([1e4, 200.0, 90.0, 0.0, -0.0, -90.0, -200.0, -1e4])
    gate_up = torch.cat([gate, torch.full_like(gate, 2.0)])[None].to(DEVICE)
    out = swiglu.triton(gate_up, torch.empty(1, 8, device=DEVICE)).cpu()
    assert ((out[0] - 2 * gate.clamp(min=0)).abs() <= 1e-30 + 2 * gate.abs() * 2**-20).all()


def test_no_rows():
    assert swiglu.triton(torch.empty(0, 8, device=DEVICE), torch.empty(0, 4, device=DEVICE)).shape == (0, 4)
