"""Rows in float8 and their scales: the reference's bits."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from rftfast.ops import fp8
from tests.triton_device import DEVICE

if DEVICE == "cuda" and torch.cuda.get_device_capability() < (8, 9):
    pytest.skip("this GPU has no float8", allow_module_level=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("channels", [16, 96, 576, 11008])
def test_it_gives_the_references_bits(channels, dtype):
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(7, channels, generator=generator) * torch.tensor([1, 1e-3, 50, 0, 3, 1e-20, 1e15])[:, None]
    x[4, channels // 2] = 1e4  # beside one that stands out, the others go down to the smallest numbers
    x = x.to(dtype)
    wanted, wanted_scale = fp8.quantize(x)
    found, scale = fp8._quantize_rows(x.to(DEVICE))
    assert torch.equal(scale.cpu(), wanted_scale)
    assert torch.equal(found.cpu().view(torch.uint8), wanted.view(torch.uint8))


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_a_row_of_nan_is_its_own_affair():
    x = torch.ones(3, 32)
    x[1] = torch.nan
    found, scale = fp8._quantize_rows(x.to(DEVICE))
    wanted, wanted_scale = fp8.quantize(x)
    for row in (0, 2):
        assert torch.equal(found[row].cpu().float(), wanted[row].float()) and scale[row] == wanted_scale[row]
