"""What a newly drawn token means for its path, as far as its id tells, for all paths of a step at once.

On a GPU this stands behind the sampler in the step's graph, so the host learns with the tokens which paths to look at: a
path without a flag goes on. Stop strings are found by the host (``rftfast.engine.stops``), and only where the token
holds a stop string's last byte.
"""

from __future__ import annotations

import torch

from rftfast.ops import cuda as _c

EOS = 1
"""The token ends the path."""
TEXT = 2
"""The token holds the last byte of a stop string: the text may have come to hold it."""
LENGTH = 4
"""The path has as many tokens as it may have."""
NO_TOKEN = 8
"""There is no token: the row of logits was no distribution, or there is no request here. Stands alone."""


def reference(
    token: torch.Tensor,
    drawn: torch.Tensor,
    limit: torch.Tensor,
    tables: torch.Tensor,
    table: torch.Tensor,
    flags: torch.Tensor,
) -> torch.Tensor:
    """Adds 1 to ``drawn`` of every path that has a token and returns ``flags``.

    Args:
        token: int64 [n], -1 for none.
        drawn: int32 [n], tokens drawn before this one: the sampler's ``step``.
        limit: int32 [n], tokens that the path may have.
        tables: uint8 [*, V], EOS and TEXT of each token; one row for each set of stop strings.
        table: int32 [n], which row of ``tables``.
        flags: uint8 [n], out.
    """
    has = token >= 0
    drawn += has.to(torch.int32)
    by_token = tables[table.long(), token.clamp(min=0)]
    flags.copy_(by_token + (drawn >= limit) * LENGTH)
    return flags.masked_fill_(~has, NO_TOKEN)


def cuda(
    token: torch.Tensor,
    drawn: torch.Tensor,
    limit: torch.Tensor,
    tables: torch.Tensor,
    table: torch.Tensor,
    flags: torch.Tensor,
) -> torch.Tensor:
    """As ``reference``, in one launch (``csrc/cuda/check_stops.cu``)."""
    n = len(token)
    expected = {torch.int64: (token,), torch.int32: (drawn, limit, table), torch.uint8: (flags,)}
    for dtype, tensors in expected.items():
        for tensor in tensors:
            assert (tensor.dtype, tensor.shape, tensor.device) == (dtype, (n,), token.device)
            assert tensor.is_contiguous()
    assert tables.dtype == torch.uint8 and tables.dim() == 2 and tables.is_contiguous()
    pointers = (t.data_ptr() for t in (token, drawn, limit, tables, table, flags))
    _c.call("check_stops", token.device, *pointers, n, tables.shape[1])
    return flags
