"""The whole engine of a GPU on a CPU: the runner's captured steps, Triton's kernels in its interpreter, CUDA's in the emulator.

Slow a step, so the job is small; what it shows is that all parts fit: strides, types, idle rows, lists of fixed size.
"""

import dataclasses
import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("there is a GPU: tests/gpu runs the engine on it", allow_module_level=True)

from rftfast import ops as operations
from rftfast.engine import Request, Sampler, SamplingParams
from rftfast.engine.gpu_runner import GpuRunner
from rftfast.engine.memory import Batch, MemoryPlan
from rftfast.models.config import ModelConfig
from rftfast.models.decoder import Decoder
from rftfast.models.kv_scales import kv_scales
from rftfast.models.rope import rope_table
from rftfast.models.tokenizer import Tokenizer
from rftfast.models.weights import load_weights
from rftfast.ops import attention, copy_pages, linear, rms_norm, rope, sample, stops, swiglu
from rftfast.ops.kv import FLOAT8, KVPool
from rftfast.ops.work import DecodeWork
from tests.engine.fake_gpu import FakeStreams, whole
from tests.tiny_model import write_tiny_llama
from tests.triton_device import DEVICE

HEADER = b"Q: two and two? A: four. "
PARAMS = SamplingParams(k=3, temperature=0.9, max_tokens=5, seed=3)
REQUESTS = [
    Request("a", tuple(HEADER + b"Q: one? A:"), PARAMS),
    Request("b", tuple(HEADER), dataclasses.replace(PARAMS, temperature=1.3, top_p=0.9, top_k=40, stop=("e",))),
    Request("c", (7,), dataclasses.replace(PARAMS, temperature=0.0, k=1, max_tokens=2)),
]


class InterpretedWork(DecodeWork):
    """One operation for a captured step, as a kernel is."""

    begin_step = whole(DecodeWork.begin_step)


class EmulatedSampler(Sampler):
    def _make_runner(self, batch, graphs):
        c = self.config
        kept = self.decoder.dtype if self.kv_scales is None else FLOAT8
        pool = KVPool.allocate(
            c.layers, self.memory.pages, c.kv_heads, c.head_dim, kept, layout="rows", scales=self.kv_scales
        )
        self.streams = FakeStreams()
        sizes = batch.max_running, batch.max_rows
        return pool, GpuRunner(
            self.decoder, pool, self.tree, *sizes, graphs=graphs, streams=self.streams, work_type=InterpretedWork
        )


def kernels():
    """What ``ops.select`` takes on a GPU in invariant mode."""
    chosen = {
        "attention": attention.triton,
        "check_stops": stops.cuda,
        "copy_pages": copy_pages.cuda,
        "linear": linear.triton,
        "rms_norm": rms_norm.triton,
        "rope_write_kv": rope.triton,
        "sample": sample.cuda,
        "swiglu": swiglu.triton,
    }
    reference = operations.select("cpu", backend="reference")
    return dataclasses.replace(reference, **{name: whole(function) for name, function in chosen.items()})


# Idle rows hold anything.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8"])
def test_it_draws_the_cpus_paths(kv_cache_dtype, emulated, monkeypatch, tmp_path):
    monkeypatch.setattr(operations.cuda, "load", lambda: emulated.module)
    monkeypatch.setattr(operations.cuda, "call", lambda name, device, *a: getattr(emulated.module, name)(0, 0, *a))
    assert DEVICE == "cpu"  # and the interpreter has been taught float8
    folder = write_tiny_llama(tmp_path / "model")
    config = ModelConfig.from_folder(folder)
    weights = load_weights(folder, config, torch.float32)
    rope = rope_table(config, config.max_positions)
    scales = kv_scales(config, weights, rope) if kv_cache_dtype == "fp8" else None
    decoder = Decoder(config, weights, kernels(), rope)
    batch = Batch(5, 5 + 40)
    sampler = EmulatedSampler(
        decoder, Tokenizer.from_folder(folder), MemoryPlan(0, 0, 0, 40, 1), batch=batch, ahead=True, scales=scales
    )
    found = {(g.name, g.sample_index): g for g in sampler.stream(REQUESTS)}
    sampler.tree.check()
    assert sampler.streams.replays > 3
    options = {"backend": "reference", "threads": 1, "kv_memory": "2MiB", "kv_cache_dtype": kv_cache_dtype}
    plain = Sampler.from_pretrained(folder, dtype="float32", **options)
    wanted = {(g.name, g.sample_index): g for g in plain.stream(REQUESTS)}
    assert found.keys() == wanted.keys()
    for name, path in wanted.items():
        assert found[name].token_ids == path.token_ids and found[name].finish_reason == path.finish_reason, name
        assert np.allclose(found[name].logprobs, path.logprobs, atol=1e-4), name
