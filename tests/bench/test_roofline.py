"""Bytes and operations by hand, and rates that are measured."""

import pytest
import torch

from bench.roofline import Rates, Work, decode_step, main, measure_rates, prompt_work, whole_job
from bench.timing import median_ms
from rftfast.evaluate.model_size import ModelSize
from rftfast.models.shapes import shape_config

SIZE = ModelSize.of(shape_config("llama-3.2-1b"))


def test_a_step_by_hand():
    """Llama-3.2-1B, 10 prompts of 900 tokens, 100 rows each, 64 own tokens a row."""
    layer = 2048 * (2048 + 512 + 512) + 2048 * 2048 + 3 * 2048 * 8192
    weights = 2 * (16 * layer + 128256 * 2048)
    kv = 2 * 2 * 16 * 8 * 64  # bytes of a position
    step = decode_step(SIZE, 10, 100, 900, 64)
    assert step.bytes == weights + (10 * 900 + 1000 * 64) * kv
    products = 2 * 1000 * (16 * layer + 128256 * 2048)
    assert step.flops == pytest.approx(products + 1000 * 964 * 4 * 16 * 32 * 64)
    shared = decode_step(SIZE, 10, 100, 900, 64, header=800)
    assert step.bytes - shared.bytes == 9 * 800 * kv
    assert shared.flops == step.flops


def test_the_estimate_of_the_plan_is_near():
    """205,000 tokens/s were estimated for 600 TFLOP/s and 4.8 TB/s, with each part's own bound added up."""
    step = decode_step(SIZE, 10.24, 100, 900, 64)
    assert 200e3 < 1024 / Rates(4.8e12, 600e12).seconds(step) < 260e3


def test_a_job_is_its_prompts_and_its_steps():
    one = whole_job(SIZE, (900,), 100, 1, 1024)
    step = decode_step(SIZE, 1, 100, 900, 1)
    prompt = prompt_work(SIZE, 899)
    assert one.bytes == step.bytes + prompt.bytes + 2 * SIZE.matrices
    assert one.flops == pytest.approx(step.flops + prompt.flops)
    two = whole_job(SIZE, (900, 900), 100, 1, 100)  # no room for both at once: everything twice
    assert two.bytes == pytest.approx(2 * one.bytes)
    assert two.flops == pytest.approx(2 * one.flops)
    together = whole_job(SIZE, (900, 900), 100, 1, 200)
    assert together.bytes < two.bytes and together.flops == pytest.approx(two.flops)
    with_header = whole_job(SIZE, (900, 900), 100, 1, 200, header=500)
    assert with_header.flops < together.flops


def test_the_larger_of_the_two_is_the_bound():
    rates = Rates(100.0, 1000.0)
    assert (rates.seconds(Work(200.0, 1000.0)), rates.bound(Work(200.0, 1000.0))) == (2.0, "memory")
    assert (rates.seconds(Work(100.0, 3000.0)), rates.bound(Work(100.0, 3000.0))) == (3.0, "compute")


def test_rates_are_measured():
    rates = measure_rates(torch.device("cpu"), budget_s=0.01)
    assert 1e8 < rates.bandwidth < 1e13
    assert 1e8 < rates.flops < 1e15


def test_time_is_the_median_of_what_was_run():
    calls = []
    ms = median_ms(lambda: calls.append(1), torch.device("cpu"), budget_s=0.0, least=7)
    assert len(calls) == 7 + 3
    assert 0 < ms < 10
    assert len(calls) + 3 + 20 >= 30 and median_ms(lambda: None, torch.device("cpu"), budget_s=9.0, most=20) > 0


@pytest.mark.parametrize("arguments", [["--rows", "0"], ["--model", "shape:nothing"], ["--device", "cuda"]])
def test_bad_arguments_are_one_line(arguments, capsys):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.strip().split("\n")) == 1
