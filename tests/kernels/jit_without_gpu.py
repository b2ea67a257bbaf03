"""Run in another process by ``test_jit.py``: the GPU runner's warm-up, every Triton kernel compiled as it is called.

A driver that names a device and launches nothing stands in for CUDA's, so Triton binds and specialises the arguments that
the engine gives, and compiles for them, as it would there. Prints as JSON what was compiled when.
"""

import dataclasses
import json
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from rftfast import ops as operations
from rftfast.engine.gpu_runner import GpuRunner
from rftfast.engine.tree import KVTree
from rftfast.models.config import ModelConfig
from rftfast.models.decoder import Decoder
from rftfast.models.rope import rope_table
from rftfast.models.weights import load_weights
from rftfast.ops import attention, fp8, linear, rms_norm, rope, swiglu
from rftfast.ops.kv import FLOAT8, KVPool
from tests.engine.fake_gpu import FakeStreams

ROWS, CHUNK = 40, 300


class Device:
    """What Triton asks of a driver before it launches."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


class Stepwise(FakeStreams):
    """At once, and graphs are not replayed: nothing that would be computed is there."""

    def run(self, body):
        body()

    def capture(self, body):
        compiled.append("capture")
        body()
        return lambda: None


compiled = []
run = JITFunction.run


def compile_only(self, *args, grid, warmup, **options):
    assert all(size > 0 for size in grid)
    before = len(self.device_caches[0][0])
    run(self, *args, grid=grid, warmup=True, **options)
    if len(self.device_caches[0][0]) > before:
        compiled.append(self.__name__)


def as_in_float8(x, weight):
    """Its rows are quantised; the product itself is torch's."""
    fp8._quantize_rows(x)
    return linear.plain(x, weight)


PRODUCTS = {"plain": linear.plain, "triton": linear.triton, "fp8": as_in_float8}


def main(folder, dtype, product):
    driver.set_active(Device())
    JITFunction.run = compile_only
    config, kind = ModelConfig.from_folder(folder), getattr(torch, dtype)
    ops = dataclasses.replace(
        operations.select("cpu", backend="reference"),
        attention=attention.triton,
        copy_pages=lambda *_: None,
        rms_norm=rms_norm.triton,
        rope_write_kv=rope.triton,
        swiglu=swiglu.triton,
        linear=PRODUCTS[product],
        sample=lambda logits, row, *_, stream: (torch.zeros(len(row), dtype=torch.int64), torch.zeros(len(row))),
    )
    decoder = Decoder(config, load_weights(folder, config, kind), ops, rope_table(config, config.max_positions))
    kept, scales = (FLOAT8, torch.ones(config.layers, config.kv_heads, 2)) if product == "fp8" else (kind, None)
    pool = KVPool.allocate(config.layers, 64, config.kv_heads, config.head_dim, kept, layout="rows", scales=scales)
    runner = GpuRunner(decoder, pool, KVTree(64), ROWS, ROWS + CHUNK, streams=Stepwise())
    print(json.dumps({"compiled": compiled, "graphs": len(runner.graphs)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
