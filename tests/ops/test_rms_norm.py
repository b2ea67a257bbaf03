"""RMSNorm with the residual added on the way, against float64."""

import pytest
import torch

from rftfast.ops import rms_norm

# Sums of squares are taken in float32, sixteen running sums and a tree: the error of the mean grows as n / 16 additions
# of like-signed terms, at worst n / 16 * 2^-24 relative; half of that reaches the root. 576 channels: 1.1e-6.
SLACK = 2e-6


def case(rows, channels, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=generator) * 3
    delta = torch.randn(rows, channels, generator=generator).to(dtype)
    weight = (torch.randn(channels, generator=generator) + 1).to(dtype)
    return x, delta, weight


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 100, 576])
@pytest.mark.parametrize("rows", [1, 8, 9, 70])
@pytest.mark.parametrize("with_delta", [True, False])
def test_native_is_the_reference(isa, dtype, rows, channels, with_delta, assert_rounded):
    x, delta, weight = case(rows, channels, dtype, seed=rows)
    delta = delta if with_delta else None
    x_native, out = x.clone(), torch.full_like(x, torch.nan).to(dtype)
    assert rms_norm.native(x_native, delta, weight, 1e-5, out) is out
    exact = rms_norm.reference(x, delta, weight, 1e-5, torch.empty_like(x, dtype=torch.float64))
    assert torch.equal(x_native, x)  # one addition in float32 has one right answer
    assert_rounded(out, exact, SLACK * exact.abs())


def test_the_reference_is_the_formula(dtype):
    x, delta, weight = case(3, 40, dtype)
    total = x + delta.float()
    exact = total.double() / (total.double() ** 2).mean(1, keepdim=True).add(0.5).sqrt() * weight.double()
    out = rms_norm.reference(x, delta, weight, 0.5, torch.empty_like(x, dtype=torch.float64))
    torch.testing.assert_close(out, exact, rtol=1e-14, atol=0)
    assert torch.equal(x, total)


def test_a_row_does_not_depend_on_the_others(isa, dtype):
    x, delta, weight = case(70, 100, dtype)
    whole = rms_norm.native(x.clone(), delta, weight, 1e-5, torch.empty_like(delta))
    for r in (0, 7, 8, 69):
        alone = rms_norm.native(x[r : r + 1].clone(), delta[r : r + 1], weight, 1e-5, torch.empty_like(delta[:1]))
        assert torch.equal(alone[0], whole[r])


def test_zeros_and_large_values(isa, dtype, assert_rounded):
    """eps keeps a row of zeros finite; 1e15 squared is still within float32."""
    x = torch.tensor([[0.0], [1e15], [1e-15]]).expand(3, 33).contiguous()
    weight = torch.ones(33, dtype=dtype)
    out = rms_norm.native(x.clone(), None, weight, 1e-6, torch.empty(3, 33, dtype=dtype))
    assert torch.equal(out[0], torch.zeros(33, dtype=dtype))
    exact = rms_norm.reference(x, None, weight, 1e-6, torch.empty(3, 33, dtype=torch.float64))
    assert_rounded(out, exact, SLACK * exact.abs())
