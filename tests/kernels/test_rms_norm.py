"""RMSNorm with the residual added on the way, in Triton against float64."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from rftfast.ops import rms_norm
from tests.kernels.rounding import assert_rounded
from tests.triton_device import DEVICE

DTYPES = [torch.float32, torch.bfloat16]
# The mean of squares is summed in float32: up to 32 terms in a row and a tree of 512, half of whose relative error
# reaches the root; then two products.
SLACK = 3e-6


def case(rows, channels, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=generator) * 3
    delta = torch.randn(rows, channels, generator=generator).to(dtype)
    weight = (torch.randn(channels, generator=generator) + 1).to(dtype)
    return x.to(DEVICE), delta.to(DEVICE), weight.to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "channels"), [(1, 1), (3, 16), (5, 100), (4, 576), (2, 2048), (2, 5120)])
@pytest.mark.parametrize("with_delta", [True, False])
def test_is_the_reference(rows, channels, dtype, with_delta):
    x, delta, weight = case(rows, channels, dtype)
    delta = delta if with_delta else None
    summed, out = x.clone(), torch.full_like(x, torch.nan).to(dtype)
    assert rms_norm.triton(summed, delta, weight, 1e-5, out) is out
    exact = rms_norm.reference(x, delta, weight, 1e-5, torch.empty_like(x, dtype=torch.float64))
    assert torch.equal(summed, x)  # one addition in float32 has one right answer
    assert_rounded(out, exact, SLACK * exact.abs())


def test_a_row_does_not_depend_on_the_others():
    x, delta, weight = case(9, 100, torch.bfloat16)
    whole = rms_norm.triton(x.clone(), delta, weight, 1e-5, torch.empty_like(delta))
    for r in (0, 8):
        own = slice(r, r + 1)
        alone = rms_norm.triton(x[own].clone(), delta[own], weight, 1e-5, torch.empty_like(delta[own]))
        assert torch.equal(alone[0], whole[r])


def test_zeros_and_large_values():
    """eps keeps a row of zeros finite; 1e15 squared is still within float32."""
    x = torch.tensor([[0.0], [1e15], [1e-15]]).expand(3, 33).contiguous().to(DEVICE)
    weight = torch.ones(33, device=DEVICE)
    out = rms_norm.triton(x.clone(), None, weight, 1e-6, torch.empty_like(x))
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    exact = rms_norm.reference(x, None, weight, 1e-6, torch.empty_like(x, dtype=torch.float64))
    assert_rounded(out, exact, SLACK * exact.abs())


def test_no_rows():
    x, delta, weight = case(0, 64, torch.bfloat16)
    assert rms_norm.triton(x, delta, weight, 1e-5, torch.empty_like(delta)).shape == (0, 64)
