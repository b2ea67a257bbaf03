"""Products, keys and values in float8 on a real GPU: against the same arithmetic in float64, inside a graph, and in the whole
engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rftfast.engine import Request, Sampler, SamplingParams
from rftfast.errors import UserError
from rftfast.ops import cuda, fp8, linear
from tests.kernels.attention_cases import Case, attend, listed, random_paths, shape_for
from tests.tiny_model import write_tiny_llama

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
if cuda.available() or cuda.triton_available() or fp8.missing("cuda", invariant=False):
    why = cuda.available() or cuda.triton_available() or fp8.missing("cuda", invariant=False)
    pytest.skip(str(why), allow_module_level=True)

GPU = torch.device("cuda", torch.cuda.current_device())
PARAMS = SamplingParams(k=20, temperature=0.9, max_tokens=40, seed=3)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("outputs", "channels"), [(12288, 4096), (4096, 11008), (2048, 1536), (960, 576)])
def test_a_product_is_that_of_the_rounded_values(outputs: int, channels: int, biased: bool) -> None:
    torch.manual_seed(channels)
    weight = (torch.randn(outputs, channels, device=GPU) * channels**-0.5).bfloat16()
    bias = torch.randn(outputs, device=GPU).bfloat16() if biased else None
    prepared = fp8.prepare(weight, bias)
    wq, ws = fp8.quantize(weight)
    for rows in (1, 2, 16, 100, 1024):
        x = torch.randn(rows, channels, device=GPU).bfloat16() * torch.logspace(-3, 3, rows, device=GPU)[:, None]
        x = x.bfloat16()
        out = fp8.product(x, prepared, others=linear.plain)
        xq, xs = fp8.quantize(x)
        exact = (xq.double() * xs) @ (wq.double() * ws).T + (0 if bias is None else bias.double())
        error = (out.double() - exact).norm(dim=1) / exact.norm(dim=1)
        assert float(error.max()) < 1e-2, rows


def test_inside_a_graph() -> None:
    prepared = fp8.prepare(torch.randn(512, 256, device=GPU).bfloat16(), None)
    x = torch.randn(64, 256, device=GPU).bfloat16()
    fp8.product(x, prepared, others=linear.plain)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fp8.product(x, prepared, others=linear.plain)
    for seed in range(3):
        torch.manual_seed(seed)
        x.copy_(torch.randn(64, 256, device=GPU))
        out.fill_(float("nan"))
        graph.replay()
        assert torch.equal(out, fp8.product(x, prepared, others=linear.plain))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 8, 4), (128, 4, 7), (128, 8, 1), (96, 4, 1)])
def test_attention_is_that_of_the_same_numbers_in_the_queries_type(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    """To the bit where that is what they are multiplied in."""
    rng = np.random.default_rng(shape)
    case = Case.random(random_paths(rng, leaves=40, depth=3, longest=300), *shape, dtype).in_float8()
    wide, lists = case.widened(), shape_for(case, tile_m=64, split_pages=32)
    found = attend(case, listed(case, lists))
    wide.check(found)
    if dtype == torch.float16:
        assert torch.equal(found, attend(wide, listed(wide, lists)))


FORMS = {
    "+fp8": {"quantization": "fp8"},
    "+kv-fp8": {"kv_cache_dtype": "fp8"},
    "+fp8+kv-fp8": {"quantization": "fp8", "kv_cache_dtype": "fp8"},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_engine_follows_the_cpus_emulation(tmp_path: Path, form: str) -> None:
    """As long as the tokens are the same, so nearly are their log-probabilities."""
    folder = write_tiny_llama(tmp_path / "model", hidden=128, layers=3)
    asked = [Request(name, tuple(name.encode() * 9), PARAMS) for name in ("one and two", "something else")]
    found = []
    for device in ("cpu", "cuda"):
        sampler = Sampler.from_pretrained(
            folder, device=device, dtype="bf16", max_running=48, kv_memory="64MiB", **FORMS[form]
        )
        assert sampler.dtype == "bfloat16" + form
        found.append({(g.name, g.sample_index): g for g in sampler.stream(asked)})
    gaps = []
    for name, path in found[0].items():
        other = found[1][name]
        for token, its, a, b in zip(path.token_ids, other.token_ids, path.logprobs, other.logprobs, strict=False):
            if token != its:
                break
            gaps.append(abs(a - b))
    assert len(gaps) > len(found[0]) and np.median(gaps) < 0.1 and max(gaps) < 1.5


def test_float32_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="--dtype bf16"):
        Sampler.from_pretrained(folder, device="cuda", dtype="float32", quantization="fp8")
