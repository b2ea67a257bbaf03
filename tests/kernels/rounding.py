"""How far a stored value may lie from the exact one."""

import torch

HALF_ULP = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def assert_rounded(actual: torch.Tensor, exact: torch.Tensor, slack: float | torch.Tensor) -> None:
    """Every value is the exact one rounded to its storage type, but for the error ``slack`` of the arithmetic before."""
    actual, exact = actual.detach().cpu(), exact.detach().cpu().double()
    assert actual.shape == exact.shape
    if isinstance(slack, torch.Tensor):
        slack = slack.cpu()
    # 1 + 2^-7: an error before the rounding may push a value across a power of two, where the half-ulp doubles.
    bound = HALF_ULP[actual.dtype] * (1 + 2.0**-7) * exact.abs() + slack
    excess = (actual.double() - exact).abs() - bound
    assert not excess.isnan().any()
    assert excess.max() <= 0, f"{int((excess > 0).sum())} values off, the worst by {excess.max():.3e} too much"
