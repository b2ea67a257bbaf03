"""The GPU's runner on a CPU that takes the GPU's place: graphs, changes, tokens that stay there, idle rows, late results."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.engine import Generation, Request, Sampler, SamplingParams
from rftfast.engine.gpu_runner import GpuRunner, buckets
from rftfast.engine.memory import Batch, MemoryPlan
from rftfast.engine.runner import Runner
from rftfast.engine.stats import StepTimes
from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.models.decoder import Decoder
from rftfast.models.rope import rope_table
from rftfast.models.tokenizer import Tokenizer
from rftfast.models.weights import load_weights
from rftfast.ops import KVPool
from tests.engine.fake_gpu import FakeStreams, FakeWork, fake_ops
from tests.engine.gpu_simulated import GpuSimulation
from tests.engine.simulated import Job
from tests.engine.test_scheduler import LETTERS, PHASES, RELAXED, workloads
from tests.tiny_model import write_tiny_llama

HEADER = b"Q: two and two? A: four. Q: three and five? A: eight. "
PARAMS = SamplingParams(k=4, temperature=0.9, max_tokens=20, seed=3)


class FakeGpuSampler(Sampler):
    """A sampler on a GPU that is none."""

    seed = 0

    def _make_runner(self, batch: Batch, graphs: bool) -> tuple[KVPool, Runner | GpuRunner]:
        c = self.config
        pool = KVPool.allocate(c.layers, self.memory.pages, c.kv_heads, c.head_dim, self.decoder.dtype, layout="rows")
        self.streams = FakeStreams(self.seed)
        sizes = batch.max_running, batch.max_rows
        runner = GpuRunner(
            self.decoder, pool, self.tree, *sizes, graphs=graphs, streams=self.streams, work_type=FakeWork
        )
        return pool, runner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


def make(
    folder: Path, *, pages: int = 120, running: int = 12, rows: int = 40, seed: int = 0, **options: Any
) -> FakeGpuSampler:
    config = ModelConfig.from_folder(folder)
    weights = load_weights(folder, config, torch.float32)
    decoder = Decoder(config, weights, fake_ops(), rope_table(config, config.max_positions))
    options = {"ahead": True, "batch": Batch(running, rows), **options}
    kind = type("Seeded", (FakeGpuSampler,), {"seed": seed})
    return kind(decoder, Tokenizer.from_folder(folder), MemoryPlan(0, 0, 0, pages, 1), **options)


def requests() -> list[Request]:
    """Below one header, twice the same prompt under two names, one without the header, one of a single token; some end
    early, by a stop string or by the end token."""
    filtered = replace(PARAMS, temperature=1.3, top_p=0.9, top_k=40, min_p=0.001, stop=("e", " a"))
    return [
        Request("a", tuple(HEADER + b"Q: one and one? A:"), PARAMS),
        Request("b", tuple(HEADER + b"Q: nine less four? A:"), filtered),
        Request("c", tuple(HEADER + b"Q: one and one? A:"), replace(PARAMS, k=2, max_tokens=33)),
        Request("d", tuple(b"Another thing altogether"), replace(PARAMS, ignore_eos=True)),
        Request("e", (7,), replace(PARAMS, temperature=0.0, k=2, max_tokens=1)),
        Request("f", tuple(b"Short"), replace(PARAMS, temperature=1.9, stop=("\n", "x"))),
    ]


def paths(generations: Any) -> dict[tuple[str, int], Generation]:
    found = {(g.name, g.sample_index): g for g in generations}
    return found


def assert_same(found: dict[tuple[str, int], Generation], wanted: dict[tuple[str, int], Generation]) -> None:
    assert found.keys() == wanted.keys()
    for name, path in wanted.items():
        other = found[name]
        assert (other.token_ids, other.finish_reason, other.text) == (path.token_ids, path.finish_reason, path.text)
        assert np.allclose(other.logprobs, path.logprobs, atol=1e-4), name


@pytest.fixture(scope="module")
def wanted(folder: Path) -> dict[tuple[str, int], Generation]:
    """By the ordinary runner."""
    sampler = Sampler.from_pretrained(folder, dtype="float32", backend="reference", threads=1, kv_memory="2MiB")
    found = paths(sampler.stream(requests()))
    assert {g.finish_reason for g in found.values()} == {"length", "eos", "stop"}, "the requests should end in all ways"
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"graphs": False},
        {"ahead": False},
        {"running": 3, "rows": 3},
        {"prefix_share": False, "seed": 1},
        {"pages": 14, "seed": 2},
        {"running": 9, "rows": 10, "seed": 3},
        {"running": 6, "rows": 80, "seed": 4},
    ],
    ids=str,
)
def test_paths_are_those_of_the_ordinary_runner(
    folder: Path, wanted: dict[tuple[str, int], Generation], options: dict[str, Any]
) -> None:
    sampler = make(folder, **options)
    steps: list[StepTimes] = []
    sampler.on_step = steps.append
    assert_same(paths(sampler.stream(requests())), wanted)
    runner = sampler.runner
    assert isinstance(runner, GpuRunner)
    runner.list.check()
    sampler.tree.check()
    assert sampler.tree.pinned_pages() == 0
    decoding = sum(step.decode_rows > 0 and step.prefill_rows == 0 for step in steps)
    mixed = [step for step in steps if 2 * step.decode_rows >= runner.max_running and 0 < step.prefill_rows <= 64]
    assert decoding > 10
    if options.get("rows") == 80:
        assert runner.mixed and mixed, "steps with prompts that have a graph"
        decoding += len(mixed)
    assert sampler.streams.replays == (decoding if options.get("graphs", True) else 0)
    assert (sampler.stats.preemptions > 0) == (options.get("pages") == 14)


def test_another_thread_may_draw(folder: Path, wanted: dict[tuple[str, int], Generation]) -> None:
    """Each thread has a current device of its own, and the one that made the sampler need not be the one that draws."""
    sampler = make(folder)
    with ThreadPoolExecutor(1) as pool:
        assert_same(pool.submit(lambda: paths(sampler.stream(requests()))).result(), wanted)


@pytest.mark.parametrize("method", ["_send", "_do"])
@pytest.mark.parametrize("at", [1, 2, 4, 11])
def test_an_interrupt_leaves_nothing_behind(
    folder: Path,
    wanted: dict[tuple[str, int], Generation],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    at: int,
) -> None:
    """Whatever of a step had been sent when it came: the next stream starts with a device that lists its own rows."""
    sampler = make(folder)
    assert isinstance(sampler.runner, GpuRunner)
    calls = itertools.count(1)
    body = getattr(sampler.runner, method)

    def interrupted(*args: Any) -> Any:
        if next(calls) == at:
            raise KeyboardInterrupt
        return body(*args)

    with monkeypatch.context() as patch:
        patch.setattr(sampler.runner, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(sampler.stream(requests()))
    assert_same(paths(sampler.stream(requests())), wanted)
    sampler.tree.check()


def test_no_memory_for_the_largest_step_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to\nallocate 3 GiB")

    monkeypatch.setattr(FakeStreams, "capture", full)
    with pytest.raises(UserError, match=r"Tried to allocate 3 GiB.*--kv-memory") as raised:
        make(folder)
    assert "\n" not in str(raised.value)


def test_rows_between_two_graphs_are_few() -> None:
    for most in (1, 8, 9, 100, 256, 1000, 1024, 4096):
        sizes = buckets(most)
        assert sizes == sorted(set(sizes)) and sizes[-1] == most
        assert all(b <= 2 * a for a, b in pairwise(sizes))
        assert all(b - a <= a / 2 for a, b in pairwise(sizes) if a >= 256)
    assert len(buckets(4096)) < 24


@settings(RELAXED, max_examples=25, phases=PHASES)
@given(
    jobs=workloads(),
    spare=st.integers(0, 12),
    running=st.integers(1, 20),
    more_rows=st.integers(0, 90),
    ahead=st.booleans(),
    seed=st.integers(0, 1 << 20),
)
def test_every_row_reads_what_it_should(
    jobs: list[Job], spare: int, running: int, more_rows: int, ahead: bool, seed: int
) -> None:
    """Random trees, forks in the middle of paths, preemptions: each row finds its own past, in each layer."""
    pages = max(j.pages for j in jobs) + spare
    GpuSimulation(jobs, pages, running, running + more_rows, LETTERS, ahead=ahead, seed=seed).run(jobs, LETTERS)
