"""What the GPU's sampler is tried on, in the emulator (``tests/cuda``) and on a device (``tests/gpu``)."""

import numpy as np
import torch

# How far a log-probability may be from the CPU's: exp within 2 ulp, sums of 32 and then of 256 floats in a tree, on both
# sides, come to a few times 2^-24 relative to the sum.
LOGPROB = 2e-6


def requests(rng, n, rows, **fixed):
    """Random arguments after ``logits``; ``fixed`` sets a column to one value or to a list of n."""
    columns = {
        "row": (rng.integers(0, rows, n), torch.int64),
        "key": (rng.integers(-(2**63), 2**63, n), torch.int64),
        "step": (rng.integers(0, 300, n), torch.int32),
        "index": (rng.integers(-(2**31), 2**31, n), torch.int32),
        "temperature": (rng.choice(np.float32([0, 0.2, 0.7, 1, 2.5, 1e-6, 1e-30, 1e-45]), n), torch.float32),
        "top_k": (rng.choice([0, 0, 1, 2, 40, 700, 10**6], n), torch.int32),
        "top_p": (rng.choice(np.float32([1, 1, 1e-6, 0.5, 0.93, 0.999, 0.9999]), n), torch.float32),
        "min_p": (rng.choice(np.float32([0, 0, 0.03, 1]), n), torch.float32),
    }
    for name, value in fixed.items():
        columns[name] = (value, columns[name][1])
    return [torch.as_tensor(v).to(dtype).expand(n).contiguous() for v, dtype in columns.values()]


def peaked(rng, n, vocab):
    """Rows like a language model's: a broad mass and, on most rows, a few tokens far above it."""
    x = rng.normal(0, 3, (n, vocab)).astype(np.float32)
    for i in range(n):
        places = rng.integers(0, vocab, min(5, vocab))
        x[i, places] += rng.uniform(0, 25) * rng.uniform(0.5, 1, len(places))
    return x
