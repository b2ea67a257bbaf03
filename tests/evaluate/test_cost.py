"""Stages: what they count, and which of arithmetic and reading takes the time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rftfast.errors import UserError
from rftfast.evaluate.cost import Paths, Rows, gpus_needed, pretraining, sampling, training
from rftfast.evaluate.gpus import GPUS, find_gpu
from rftfast.evaluate.model_size import ModelSize
from rftfast.models.shapes import shape_config

SIZE = ModelSize.of(shape_config("llama-7b"))
A100 = find_gpu("A100-80GB")
PATHS = Paths(count=100, k=50, header=600, question=64, path=128)


def test_training_is_three_forwards_an_epoch() -> None:
    stage = training("SFT", SIZE, Rows(10, 66, 130), 2, A100)
    once = SIZE.forward_flops(196, logits=130)
    assert stage.flops == 2 * 10 * 3 * once
    assert stage.tokens == 2 * 10 * 196
    assert stage.seconds == stage.flops / A100.flops
    # Of a 7B model on short rows, 6 N for each token is the most of it.
    assert stage.flops == pytest.approx(6 * SIZE.blocks * stage.tokens, rel=0.03)


def test_pretraining_has_logits_everywhere() -> None:
    stage = pretraining(SIZE, 2048 * 5, 2048, A100)
    assert stage.flops == pytest.approx(3 * 5 * SIZE.forward_flops(2048, logits=2048))


def test_sampling_counts_each_token_once() -> None:
    """Against a loop over every token of every path."""
    little = Paths(count=2, k=3, header=5, question=4, path=6)
    alone = sampling("", SIZE, little, 2, A100, shared=False)
    by_hand = 0.0
    for _ in range(2 * 3):
        by_hand += sum(SIZE.forward_flops(1, start=i) for i in range(9))
        by_hand += sum(SIZE.forward_flops(1, start=9 + i, logits=1) for i in range(6))
    assert alone.flops == pytest.approx(by_hand)
    assert alone.tokens == 2 * 3 * 15
    shared = sampling("", SIZE, little, 2, A100, shared=True)
    assert shared.tokens == 5 + 2 * 4 + 2 * 3 * 6
    spared = by_hand - sum(SIZE.forward_flops(1, start=i) for i in range(5))
    spared -= 2 * sum(SIZE.forward_flops(1, start=5 + i) for i in range(4))
    for _ in range(2 * 3):
        spared -= sum(SIZE.forward_flops(1, start=9 + i, logits=1) for i in range(6))
    assert alone.flops - shared.flops == pytest.approx(spared)


def test_a_small_batch_waits_for_the_weights() -> None:
    """One path at a time: each token costs a reading of all weights, whatever is shared."""
    stage = sampling("", SIZE, replace(PATHS, header=0), 1, A100, shared=True)
    steps = 100 * 50 * 128
    assert stage.bound == "memory"
    assert stage.seconds == pytest.approx(steps * SIZE.weight_bytes / A100.bandwidth, rel=0.02)
    # The memory's share is the same for a batch, so a larger one is nearly as many times faster.
    assert sampling("", SIZE, replace(PATHS, header=0), 8, A100, shared=True).seconds < stage.seconds / 7


def test_sharing_takes_reading_away() -> None:
    alone = sampling("", SIZE, PATHS, 256, A100, shared=False)
    shared = sampling("", SIZE, PATHS, 256, A100, shared=True)
    assert alone.seconds > 6 * shared.seconds  # 256 prompts of 664 tokens are 89 GB in each step
    reading = replace(A100, flops=1e30)
    assert sampling("", SIZE, PATHS, 256, reading, shared=False).seconds > 100 * 50 * 128 / 256 * 89e9 / A100.bandwidth
    # With a prompt of nothing there is nothing to share.
    bare = replace(PATHS, header=0, question=0)
    assert sampling("", SIZE, bare, 256, A100, shared=False) == sampling("", SIZE, bare, 256, A100, shared=True)


def test_a_step_reads_a_prompt_once_for_its_paths() -> None:
    """By hand: 100 rows of 2 questions on a GPU that only reads."""
    reader = replace(A100, flops=1e30)
    stage = sampling("", SIZE, PATHS, 100, reader, shared=True)
    positions = 600 + 2 * 64 + 100 * 64
    steps = 100 * 50 * 128 / 100
    prompts = -(-(600 + 100 * 64) // 512) * SIZE.weight_bytes
    whole = prompts + steps * (SIZE.weight_bytes + positions * SIZE.kv_bytes)
    assert stage.seconds == pytest.approx(whole / reader.bandwidth)


def test_the_batch_is_no_larger_than_the_job() -> None:
    one = Paths(count=1, k=2, header=0, question=10, path=10)
    assert sampling("", SIZE, one, 512, A100, shared=True) == sampling("", SIZE, one, 2, A100, shared=True)
    with pytest.raises(UserError, match="batch is 0"):
        sampling("", SIZE, one, 0, A100, shared=True)


def test_a_bound_holds_for_every_gpu() -> None:
    for gpu in GPUS.values():
        stage = sampling("", SIZE, PATHS, 64, gpu, shared=True)
        assert stage.seconds >= stage.flops / gpu.flops


def test_gpus_needed() -> None:
    assert gpus_needed(SIZE, PATHS, 8, A100, shared=True) == 1
    assert gpus_needed(SIZE, PATHS, 256, A100, shared=False) == 2  # 13 GB of weights, 106 GB of keys and values
    assert gpus_needed(SIZE, PATHS, 256, A100, shared=True) == 1


def test_unknown_gpu() -> None:
    assert find_gpu("h200").memory == 141e9
    with pytest.raises(UserError, match="A100-80GB"):
        find_gpu("K80")
