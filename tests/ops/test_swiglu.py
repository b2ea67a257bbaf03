"""SwiGLU against float64."""

import pytest
import torch

from rftfast.ops import swiglu

# exp2 in float32: its own 2e-7, and its argument g * log2(e) rounded once, which costs |g| * 2^-24 relative; where that
# matters (g < 0) silu itself falls as e^g. Three more roundings follow. |g| <= 30 here: 30 * 6e-8 + 4e-7.
SLACK = 3e-6


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 48, 1536])
@pytest.mark.parametrize("rows", [1, 9, 70])
def test_native_is_the_reference(isa, dtype, rows, channels, assert_rounded):
    gate_up = (torch.randn(rows, 2 * channels, generator=torch.Generator().manual_seed(rows)) * 5).to(dtype)
    out = torch.full((rows, channels), torch.nan, dtype=dtype)
    assert swiglu.native(gate_up, out) is out
    exact = swiglu.reference(gate_up, torch.empty(rows, channels, dtype=torch.float64))
    assert_rounded(out, exact, SLACK * exact.abs() + 1e-35)


def test_the_reference_is_the_formula(dtype):
    gate_up = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    gate, up = gate_up[:, :4].double(), gate_up[:, 4:].double()
    out = swiglu.reference(gate_up, torch.empty(3, 4, dtype=torch.float64))
    torch.testing.assert_close(out, gate / (1 + torch.exp(-gate)) * up, rtol=1e-14, atol=0)


def test_large_gates(isa, dtype):
    """Far out on both sides the gate is the identity or nothing; no overflow on the way (vector part and tail)."""
    gate = torch.tensor([1e4, 200.0, 90.0, 0.0, -0.0, -90.0, -200.0, -1e4]).repeat(3)  # 24: one vector and a tail
    gate_up = torch.cat([gate, torch.full_like(gate, 2.0)])[None].to(dtype)
    out = swiglu.native(gate_up, torch.empty(1, 24, dtype=dtype))
    exact = 2 * gate.to(dtype).float().clamp(min=0)
    assert ((out[0].float() - exact).abs() <= 1e-30 + exact * 2**-8).all()


def test_a_row_does_not_depend_on_the_others(isa, dtype):
    gate_up = torch.randn(70, 2 * 50, generator=torch.Generator().manual_seed(2)).to(dtype)
    whole = swiglu.native(gate_up, torch.empty(70, 50, dtype=dtype))
    for r in (0, 8, 69):
        assert torch.equal(swiglu.native(gate_up[r : r + 1], torch.empty(1, 50, dtype=dtype))[0], whole[r])
