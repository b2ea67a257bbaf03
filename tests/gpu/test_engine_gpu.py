"""The sampler on a real GPU: the CPU's tokens, and the same paths however its steps are launched."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rftfast.engine import Generation, Request, Sampler, SamplingParams
from rftfast.engine.gpu_runner import GpuRunner, Mixed
from rftfast.engine.stats import StepTimes
from rftfast.ops import cuda
from tests.tiny_model import write_tiny_llama

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)
if cuda.available() or cuda.triton_available():
    pytest.skip(str(cuda.available() or cuda.triton_available()), allow_module_level=True)

HEADER = b"Q: two and two? A: four. Q: three and five? A: eight. Q: six and seven? A: thirteen. " * 3
PARAMS = SamplingParams(k=20, temperature=0.9, max_tokens=60, seed=3)
Paths = dict[tuple[str, int], Generation]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"), hidden=128, layers=3)


def requests() -> list[Request]:
    """Two prompts below one header, one without, one of a token; some end by a stop string or the end token."""
    filtered = replace(PARAMS, temperature=1.3, top_p=0.9, top_k=40, min_p=0.001, stop=("e", " a"))
    return [
        Request("a", tuple(HEADER + b"Q: one and one? A:"), PARAMS),
        Request("b", tuple(HEADER + b"Q: nine less four? A:"), filtered),
        Request("c", tuple(b"Another thing altogether"), replace(PARAMS, k=30, ignore_eos=True)),
        Request("d", (7,), replace(PARAMS, temperature=0.0, k=2, max_tokens=9)),
        Request("e", tuple(b"Short"), replace(PARAMS, k=70, temperature=1.9, stop=("\n", "x"))),
    ]


def draw(folder: Path, device: str = "cuda", dtype: str = "float32", **options: Any) -> tuple[Paths, Sampler]:
    options = {"max_running": 48, "kv_memory": "64MiB", **options}
    sampler = Sampler.from_pretrained(folder, device=device, dtype=dtype, **options)
    found = {(g.name, g.sample_index): g for g in sampler.stream(requests())}
    sampler.tree.check()
    assert sampler.tree.pinned_pages() == 0
    return found, sampler


def assert_equal(found: Paths, wanted: Paths) -> None:
    assert found.keys() == wanted.keys()
    different = [name for name, path in wanted.items() if found[name] != path]
    assert not different, f"{len(different)} of {len(wanted)} paths differ, the first is {different[0]}"


@pytest.fixture(scope="module")
def wanted(folder: Path) -> Paths:
    return draw(folder, "cpu")[0]


@pytest.mark.parametrize("invariant", [False, True])
def test_float32_tokens_are_the_cpus(folder: Path, wanted: Paths, invariant: bool) -> None:
    """Logits differ by some 1e-6, so a draw goes another way about once in a hundred thousand tokens."""
    found, sampler = draw(folder, invariant=invariant)
    assert isinstance(sampler.runner, GpuRunner) and sampler.ahead
    assert found.keys() == wanted.keys()
    same = [name for name, path in wanted.items() if found[name].token_ids == path.token_ids]
    assert len(same) >= len(wanted) - 1
    for name in same:
        assert found[name].finish_reason == wanted[name].finish_reason
        assert np.allclose(found[name].logprobs, wanted[name].logprobs, atol=1e-3), name


def test_bfloat16_follows_float32(folder: Path, wanted: Paths) -> None:
    """As long as the tokens are the same, so nearly are their log-probabilities; and mostly they are at the start."""
    found, _ = draw(folder, dtype="bf16")
    firsts = [found[name].token_ids[0] == path.token_ids[0] for name, path in wanted.items()]
    assert np.mean(firsts) > 0.8
    gaps = []
    for name, path in wanted.items():
        for token, other, a, b in zip(
            path.token_ids, found[name].token_ids, path.logprobs, found[name].logprobs, strict=False
        ):
            if token != other:
                break
            gaps.append(abs(a - b))
    assert len(gaps) > len(wanted) and np.median(gaps) < 0.03 and max(gaps) < 1.0


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_invariant_mode(folder: Path, dtype: str) -> None:
    """Graphs or none, ahead or not, shared or not, many at once or few: the same paths to the bit."""
    base, _ = draw(folder, dtype=dtype, invariant=True)
    for options in (
        {"graphs": False},
        {"ahead": False},
        {"prefix_share": False},
        {"max_running": 5},
        {"max_running": 300},
        {"graphs": False, "ahead": False, "max_running": 7},
    ):
        assert_equal(draw(folder, dtype=dtype, invariant=True, **options)[0], base)


def test_most_steps_are_graphs(folder: Path) -> None:
    sampler = Sampler.from_pretrained(folder, device="cuda", dtype="bf16", max_running=48, kv_memory="64MiB")
    runner = sampler.runner
    assert isinstance(runner, GpuRunner)
    assert {48, 32, 8} <= set(runner.graphs) and any(isinstance(shape, Mixed) for shape in runner.graphs)
    launched: list[object] = []
    body = runner._body
    runner._body = lambda shape: launched.append(shape) or body(shape)  # type: ignore[method-assign,func-returns-value]
    steps: list[StepTimes] = []
    sampler.on_step = steps.append
    assert len(list(sampler.stream(requests()))) == 142
    assert len(launched) < len(steps) / 10, "steps that were not replayed"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_the_second_device_from_another_thread(folder: Path) -> None:
    """A thread begins with the first device as its current one, and Triton launches on that."""
    base, _ = draw(folder, dtype="bf16", invariant=True)
    with ThreadPoolExecutor(1) as pool:
        sampler = Sampler.from_pretrained(
            folder, device="cuda:1", dtype="bf16", invariant=True, max_running=48, kv_memory="64MiB"
        )
        found = pool.submit(lambda: {(g.name, g.sample_index): g for g in sampler.stream(requests())}).result()
    assert_equal(found, base)


def test_steps_do_not_grow_the_memory(folder: Path) -> None:
    """All that a step needs was taken when the sampler was made."""
    sampler = Sampler.from_pretrained(folder, device="cuda", dtype="bf16", max_running=48, kv_memory="64MiB")
    reserved = torch.cuda.memory_reserved()
    assert len(list(sampler.stream(requests()))) == 142
    assert torch.cuda.memory_reserved() <= reserved + (8 << 20)


def test_many_rows(folder: Path) -> None:
    """As many as there can be, against few at a time."""
    asked = [
        Request(f"q{i}", tuple(HEADER + b"number %d" % i), replace(PARAMS, k=100, max_tokens=24)) for i in range(45)
    ]

    def all_of(rows: int) -> Paths:
        sampler = Sampler.from_pretrained(
            folder, device="cuda", dtype="bf16", invariant=True, max_running=rows, kv_memory="1GiB"
        )
        return {(g.name, g.sample_index): g for g in sampler.stream(asked)}

    assert_equal(all_of(4096), all_of(500))


def test_damaged_weights_are_an_error_and_the_device_goes_on(folder: Path) -> None:
    from rftfast.errors import UserError

    sampler = Sampler.from_pretrained(folder, device="cuda", max_running=16, kv_memory="16MiB")
    good = sampler.decoder.norm.clone()
    sampler.decoder.norm.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN"):
        list(sampler.stream(requests()))
    sampler.decoder.norm.copy_(good)
    assert len(list(sampler.stream(requests()))) == 142
