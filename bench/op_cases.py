"""The kernel benchmark's other cases: what a step does beside attention, at the sizes of Llama-3.2-1B and 1,024 rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from bench.kernel_case import KernelCase, Planned, Way, relative
from bench.roofline import Work
from rftfast.ops import copy_pages, linear, rms_norm, rope, sample, softmax_loss, swiglu
from rftfast.ops.kv import PAGE, KVPool

BOUND = {torch.bfloat16: 1e-2, torch.float32: 1e-5}  # of |out - exact| / |exact|
CHECKED_DRAWS = 8
EPS = 1e-5
SAMPLERS = {"temperature": (0, 1.0), "top-p 0.95": (0, 0.95), "top-k 50": (50, 1.0)}  # top_k, top_p


def planned(device: torch.device, dtype: torch.dtype, *, quick: bool, tiny: bool) -> Iterator[Planned]:
    """Those of Triton anywhere; those of CUDA on GPUs."""
    rows, hidden, inner = (5, 96, 130) if tiny else (1024, 2048, 8192)
    heads, kv_heads, d = (3, 1, 16) if tiny else (32, 8, 64)
    shapes = [(2 * inner, hidden), (hidden, inner)] + [((heads + 2 * kv_heads) * d, hidden)] * (not quick)
    for outputs, channels in shapes:
        name = f"{rows}x{channels} to {outputs}"
        yield Planned("invariant linear", name, partial(linear_case, name, rows, outputs, channels, dtype, device))
    name = f"{rows}x{hidden}"
    yield Planned("rms_norm", name, partial(rms_norm_case, name, rows, hidden, dtype, device))
    name = f"{rows} rows, {heads} and {kv_heads} heads of {d}"
    build = partial(rope_case, name, rows, heads, kv_heads, d, dtype, device)
    yield Planned("rope_write_kv", name, build)
    name = f"{rows}x{inner}"
    yield Planned("swiglu", name, partial(swiglu_case, name, rows, inner, dtype, device))
    vocab = 300 if tiny else 128_256
    name = f"{rows}x{vocab} with gradient"
    yield Planned("softmax_loss", name, partial(loss_case, name, rows, vocab, dtype, device))
    if device.type != "cuda":
        return
    for vocab in (128_256,) if quick else (128_256, 151_936, 32_000):
        for filters in SAMPLERS:
            name = f"{rows}x{vocab} {filters}"
            yield Planned("sampler", name, partial(sampler_case, name, rows, vocab, filters, dtype, device))
    name = f"{rows} pages of {kv_heads} heads of {d}"
    yield Planned("page copy", name, partial(copy_case, name, rows, kv_heads, d, dtype, device))


def _normal(*shape: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, device=device).to(dtype)


def linear_case(
    name: str, rows: int, outputs: int, channels: int, dtype: torch.dtype, device: torch.device
) -> KernelCase:
    made = {"device": device, "dtype": dtype}
    x = _normal(rows, channels, **made)
    layer = linear.Linear(_normal(outputs, channels, **made) * channels**-0.5, None)
    exact = x.double() @ layer.weight.double().T
    ours, theirs = (partial(function, x, layer) for function in (linear.triton, linear.plain))
    bytes_ = (rows * channels + outputs * channels + rows * outputs) * dtype.itemsize
    return KernelCase(
        "invariant linear",
        name,
        Work(bytes_, 2.0 * rows * outputs * channels),
        Way(ours, ours),
        lambda found: relative(found, exact),
        BOUND[dtype],
        rivals={"torch (free to choose)": Way(theirs, theirs)},
    )


def rms_norm_case(name: str, rows: int, channels: int, dtype: torch.dtype, device: torch.device) -> KernelCase:
    first, delta = torch.randn(rows, channels, device=device), _normal(rows, channels, device=device, dtype=dtype)
    weight = _normal(channels, device=device, dtype=dtype)
    x, out = first.clone(), torch.empty_like(delta)

    def reset() -> None:
        x.copy_(first)
        out.fill_(float("nan"))

    def theirs() -> torch.Tensor:
        x.add_(delta)
        return F.rms_norm(x, (channels,), weight.float(), EPS).to(dtype)

    def ours() -> torch.Tensor:
        return rms_norm.triton(x, delta, weight, EPS, out)

    exact = rms_norm.reference(first.double(), delta, weight, EPS, torch.empty_like(first, dtype=torch.float64))
    return KernelCase(
        "rms_norm",
        name,
        Work(rows * channels * (8 + 2 * dtype.itemsize), 0.0),
        Way(ours, ours),
        lambda found: relative(found, exact),
        BOUND[dtype],
        reset,
        {"torch": Way(theirs, theirs)},
    )


def rope_case(
    name: str, rows: int, heads: int, kv_heads: int, d: int, dtype: torch.dtype, device: torch.device
) -> KernelCase:
    rng = np.random.default_rng(rows)
    first = _normal(rows, (heads + 2 * kv_heads) * d, device=device, dtype=dtype)
    angles = torch.arange(512, device=device)[:, None] * 1e4 ** (-torch.arange(0, d, 2, device=device) / d)
    cos, sin = angles.cos(), angles.sin()
    positions = torch.from_numpy(rng.integers(0, 512, rows).astype(np.int32)).to(device)
    pool = KVPool.allocate(1, rows, kv_heads, d, dtype, device, "rows")
    slots = torch.from_numpy(rng.permutation(rows) * PAGE + rng.integers(0, PAGE, rows)).to(device)
    qkv = first.clone()

    def reset() -> None:
        qkv.copy_(first)
        pool.data.fill_(float("nan"))

    def run(way: object) -> None:
        way(qkv, cos, sin, positions, slots, pool, 0, heads, None, None, EPS)  # type: ignore[operator]

    def result(way: object) -> torch.Tensor:
        run(way)
        written = pool.data[0].view(rows, kv_heads, 2, PAGE, d)[slots // PAGE, :, :, slots % PAGE]
        return torch.cat([qkv[:, : heads * d], written.flatten(1)], dim=1)

    def theirs(qkv: torch.Tensor, *_: object) -> None:
        turned = qkv[:, : (heads + kv_heads) * d].view(rows, heads + kv_heads, d)
        low, high = turned.float().chunk(2, dim=-1)
        c, s = cos[positions.long()][:, None], sin[positions.long()][:, None]
        turned.copy_(torch.cat([low * c - high * s, high * c + low * s], dim=-1))
        k_and_v = qkv[:, heads * d :].view(rows, 2, kv_heads, d).transpose(1, 2)
        pool.data[0].view(rows, kv_heads, 2, PAGE, d)[slots // PAGE, :, :, slots % PAGE] = k_and_v

    reset()
    exact = result(rope.reference)
    ways = {name: Way(partial(run, way), partial(result, way)) for name, way in (("", rope.triton), ("torch", theirs))}
    return KernelCase(
        "rope_write_kv",
        name,
        Work((2 * heads + 4 * kv_heads) * rows * d * dtype.itemsize, 0.0),
        ways.pop(""),
        lambda found: relative(found, exact),
        BOUND[dtype],
        reset,
        ways,
    )


def swiglu_case(name: str, rows: int, channels: int, dtype: torch.dtype, device: torch.device) -> KernelCase:
    both = _normal(rows, 2 * channels, device=device, dtype=dtype)
    out = torch.empty(rows, channels, dtype=dtype, device=device)
    exact = swiglu.reference(both, torch.empty_like(out, dtype=torch.float64))

    def theirs() -> torch.Tensor:
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up

    def ours() -> torch.Tensor:
        return swiglu.triton(both, out)

    return KernelCase(
        "swiglu",
        name,
        Work(3 * rows * channels * dtype.itemsize, 0.0),
        Way(ours, ours),
        lambda found: relative(found, exact),
        BOUND[dtype],
        lambda: out.fill_(float("nan")),
        {"torch": Way(theirs, theirs)},
    )


def loss_case(name: str, rows: int, vocab: int, dtype: torch.dtype, device: torch.device) -> KernelCase:
    """Training's: the losses of rows of scores, and their gradient in the scores' place."""
    first = (torch.randn(rows, vocab, device=device) * 3).to(dtype)
    labels = torch.randint(vocab, (rows,), device=device)
    scores, nll = first.clone(), torch.empty(rows, device=device)
    wide, wide_nll = first.double(), torch.empty(rows, dtype=torch.float64, device=device)
    softmax_loss.reference(wide, labels, wide_nll, gradient=True)

    def ours() -> torch.Tensor:
        return softmax_loss.triton(scores, labels, nll, gradient=True)

    def theirs() -> torch.Tensor:
        products = scores.detach().requires_grad_()
        loss = F.cross_entropy(products.float(), labels, reduction="none")
        scores.copy_(torch.autograd.grad(loss.sum(), products)[0])
        return nll.copy_(loss.detach())

    def result(way: Callable[[], torch.Tensor]) -> torch.Tensor:
        found = way()
        return torch.tensor([relative(scores, wide), relative(found, wide_nll)])

    return KernelCase(
        "softmax_loss",
        name,
        Work(2 * rows * vocab * dtype.itemsize, 0.0),
        Way(ours, partial(result, ours)),
        lambda errors: float(errors.max()),
        BOUND[dtype],
        lambda: scores.copy_(first),
        {"torch": Way(theirs, partial(result, theirs))},
    )


def sampler_case(
    name: str, rows: int, vocab: int, filters: str, dtype: torch.dtype, device: torch.device
) -> KernelCase:
    """Its error is the share of rows whose token is not the reference's. Rivals draw from the same distribution, other
    tokens; like ours they give the token's log-probability too."""
    top_k, top_p = SAMPLERS[filters]
    temperature = 0.7
    logits = (torch.randn(rows, vocab, device=device) * 3).to(dtype)
    each = torch.arange(rows, device=device)

    def column(value: float, kind: torch.dtype) -> torch.Tensor:
        return torch.full((rows,), value, dtype=kind, device=device)

    inputs = [each, each * 7919, column(3, torch.int32), each.to(torch.int32), column(temperature, torch.float32)]
    inputs += [column(top_k, torch.int32), column(top_p, torch.float32), column(0.0, torch.float32)]

    def ours() -> torch.Tensor:
        return sample.cuda(logits, *inputs)[0]

    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        x = logits.float()
        kept = x / temperature
        if top_k:
            kept = kept.masked_fill(kept < kept.topk(top_k).values[:, -1:], float("-inf"))
        if top_p < 1:
            ordered, order = kept.sort(descending=True)
            share = ordered.softmax(-1)
            beyond = share.cumsum(-1) - share >= top_p
            kept = kept.scatter(1, order, ordered.masked_fill(beyond, float("-inf")))
        shares = kept.softmax(-1)
        token = (shares / torch.empty_like(shares).exponential_()).argmax(-1)
        return token, x.gather(1, token[:, None])[:, 0] - x.logsumexp(-1)

    few = min(rows, CHECKED_DRAWS)
    exact = sample.reference(logits[:few].cpu(), *(t[:few].cpu() for t in inputs))[0]
    return KernelCase(
        "sampler",
        name,
        Work(rows * vocab * dtype.itemsize, 0.0),
        Way(ours, ours),
        lambda found: float((found[:few].cpu() != exact).double().mean()),
        0.2,  # the reference may part where two scores are equal to seven digits
        rivals={"torch": Way(theirs, None)},
    )


def copy_case(name: str, count: int, kv_heads: int, d: int, dtype: torch.dtype, device: torch.device) -> KernelCase:
    """As a prompt's last page is copied for each of its rows: half of it, from one page for 100."""
    pool = KVPool.allocate(1, 2 * count, kv_heads, d, dtype, device, "rows")
    before = torch.randn(pool.data.shape, device=device).to(dtype)
    targets = count + np.random.default_rng(count).permutation(count)
    copies = np.stack([np.arange(count) // 100, targets, np.full(count, PAGE // 2)], axis=1).astype(np.int32)
    listed = torch.from_numpy(copies).to(device)
    source, target = (listed[:, i].long() for i in (0, 1))
    exact = KVPool(before.clone().cpu(), d, "rows")
    copy_pages.reference(exact, 0, listed.cpu())

    def run(ours: bool) -> torch.Tensor:
        if ours:
            copy_pages.cuda(pool, 0, listed)
        else:
            places = pool.data[0].view(2 * count, kv_heads, 2, PAGE, d)[:, :, :, : PAGE // 2]
            places[target] = places[source]
        return pool.data

    half = PAGE // 2 * kv_heads * 2 * d * dtype.itemsize
    ways = [Way(partial(run, ours), partial(run, ours)) for ours in (True, False)]
    return KernelCase(
        "page copy",
        name,
        Work((count + -(-count // 100)) * half, 0.0),
        ways[0],
        lambda found: relative(found.cpu(), exact.data),
        0.0,
        lambda: pool.data.copy_(before),
        {"torch": ways[1]},
    )
