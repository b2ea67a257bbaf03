"""The kernel benchmark without a GPU: its cases in Triton's interpreter, its rivals, its time limit and its file."""

import os
import signal
import sys
import time
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("there is a GPU: python bench/kernels.py runs on it", allow_module_level=True)

from bench import flash_decode, kernels, op_cases
from bench.attention_cases import TINY, decode_batch, decode_case
from bench.kernel_case import Planned, Way, WrongResult, check, measure
from bench.roofline import Rates
from bench.schema import Result
from rftfast.ops import copy_pages, native, sample

CPU = torch.device("cpu")
RATES = Rates(1e10, 1e11)


def test_every_case_computes_what_its_reference_does(capsys):
    assert kernels.main(["--interpret"]) == 0
    said = capsys.readouterr().out
    assert "12 of 12 cases are right" in said
    assert {line.rsplit(" tiny", 1)[0] for line in said.splitlines() if "attention" in line} == set(kernels.NAMES[:2])


def test_cases_of_cuda_kernels(monkeypatch):
    """The CPU's own functions in their place: what is asked of them, and their rivals."""
    if native.available():
        pytest.skip(str(native.available()))
    monkeypatch.setattr(sample, "cuda", sample.native)
    monkeypatch.setattr(copy_pages, "cuda", copy_pages.reference)
    for filters in op_cases.SAMPLERS:
        case = op_cases.sampler_case(filters, 12, 3000, filters, torch.float32, CPU)
        assert check(case) == 0
        token, logprob = case.rivals["torch"].run()
        assert token.shape == logprob.shape == (12,) and (logprob < 0).all()
    case = op_cases.copy_case("copy", 230, 2, 16, torch.float32, CPU)
    assert check(case) == case.error_of(case.rivals["torch"]) == 0


def test_the_torch_sampler_draws_from_the_filtered_distribution():
    case = op_cases.sampler_case("top-k 50", 4000, 60, "top-k 50", torch.float32, CPU)
    token, _ = case.rivals["torch"].run()
    assert len(token.unique()) > 40


def test_what_is_wrong_has_no_time():
    case = decode_case("tiny", TINY, 32, 2, 2, 8, torch.float32, CPU)
    with pytest.raises(WrongResult, match="decode attention tiny"):
        check(replace(case, ours=Way(case.ours.run, lambda: case.ours.run() * 1.01)))
    with pytest.raises(WrongResult, match="error nan"):
        check(replace(case, ours=Way(case.ours.run, lambda: torch.full_like(case.ours.run(), torch.nan))))
    calls = {"wrong": lambda: case.ours.run() + 1, "broken": lambda: 1 / 0}
    found = measure(replace(case, rivals={name: Way(call, call) for name, call in calls.items()}), CPU, RATES)
    assert not found.rivals_ms
    assert "something else" in found.skipped["wrong"] and "ZeroDivisionError" in found.skipped["broken"]
    assert found.ms > 0 and found.error < 1e-5


def test_bytes_by_hand():
    """Two prompts of 32 tokens with two rows each: 64 shared positions and the rows' own, read once."""
    batch = decode_batch(TINY, 32, 2, 2, 8, torch.float32, CPU)
    case = decode_case("tiny", TINY, 32, 2, 2, 8, torch.float32, CPU)
    own = int(batch.own_keys.sum())
    assert case.work.bytes == 4 * (2 * (64 + own) * 2 * 16 + 2 * 4 * 6 * 16)
    assert case.work.flops == 4 * (4 * 32 + own) * 6 * 16


def _fake_flash_attn(q, keys, values, cache_seqlens, block_table, softmax_scale, causal):
    rows = []
    for row, length in enumerate(cache_seqlens.tolist()):
        k, v = (x[block_table[row].long()].flatten(0, 1)[:length].repeat_interleave(3, 1) for x in (keys, values))
        weights = (torch.einsum("hd,lhd->hl", q[row, 0], k) * softmax_scale).softmax(-1)
        rows.append(torch.einsum("hl,lhd->hd", weights, v))
    return torch.stack(rows).unsqueeze(1)


@pytest.mark.parametrize("prefix", [0, 128, 256, 560])
def test_pages_for_flash_attn(monkeypatch, prefix):
    library = types.ModuleType("flash_attn")
    library.flash_attn_with_kvcache = _fake_flash_attn
    monkeypatch.setitem(sys.modules, "flash_attn", library)
    heads = replace(TINY, positions=1024)
    batch = decode_batch(heads, prefix, 2, 3, 200, torch.float32, CPU)
    run = flash_decode.flash_attn(batch)
    case = decode_case("tiny", heads, prefix, 2, 3, 200, torch.float32, CPU)
    assert case.error(run()) > 0.1, "other queries, other keys"
    torch.manual_seed(0)
    batch = decode_batch(heads, prefix, 2, 3, 200, torch.float32, CPU)
    torch.manual_seed(0)
    case = decode_case("tiny", heads, prefix, 2, 3, 200, torch.float32, CPU)
    assert case.error(flash_decode.flash_attn(batch)()) < 1e-5
    shared = {tuple(row[: prefix // 256].tolist()) for row in flash_decode.repaged(batch)[2]}
    assert len(shared) == (2 if prefix >= 256 else 1)


def test_lists_for_flashinfer():
    first, pages, last = flash_decode._ragged([np.array([5, 3]), np.array([7])], np.array([17, 16]), CPU)
    assert (first.tolist(), pages.tolist(), last.tolist()) == ([0, 2, 3], [5, 3, 7], [1, 16])
    ready, skipped = flash_decode.libraries(decode_batch(TINY, 32, 1, 2, 8, torch.float32, CPU))
    assert not ready and len(skipped) == 3


def _arguments(tmp_path, *more):
    return kernels._parser().parse_args(["--json", str(tmp_path / "out.json"), *more])


def _on_cpu(monkeypatch, cases):
    """A CPU in the GPU's place, with ``cases``."""
    monkeypatch.setattr(kernels, "planned", lambda *_, **__: iter(cases))
    monkeypatch.setattr(kernels, "measure_rates", lambda *_, **__: RATES)
    monkeypatch.setattr(kernels, "measure", lambda case, _, rates: measure(case, CPU, rates))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "no GPU at all")


def _swiglu(name):
    return Planned("swiglu", name, lambda: op_cases.swiglu_case(name, 3, 40, torch.float32, CPU))


def test_from_cases_to_table_and_file(tmp_path, monkeypatch, capsys):
    broken = Planned("swiglu", "broken", lambda: 1 / 0)
    _on_cpu(monkeypatch, [_swiglu("first"), broken, _swiglu("second")])
    assert kernels.run(_arguments(tmp_path), time.perf_counter()) == 1
    result = Result.read(tmp_path / "out.json")
    assert [one.case for one in result.kernels] == ["first", "second"]
    assert result.kernels[0].rivals_ms.keys() == {"torch"}
    assert result.settings["wrong"] == ["swiglu broken: ZeroDivisionError: division by zero"]
    said = capsys.readouterr().out
    assert "wrong: swiglu broken" in said and said.count("torch") == 2 and "GB/s" in said


def test_time_is_up(tmp_path, monkeypatch, capsys):
    """Even in the middle of a case that swallows every exception; what there was by then is in the file."""

    def slow():
        end = time.perf_counter() + 60
        while time.perf_counter() < end:
            try:
                time.sleep(0.02)
            except Exception:
                continue

    _on_cpu(monkeypatch, [_swiglu("first"), Planned("swiglu", "slow", slow), _swiglu("never")])
    begin = time.perf_counter()
    assert kernels.run(_arguments(tmp_path, "--seconds", "3"), begin) == 0
    assert time.perf_counter() - begin < 5
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert [one.case for one in Result.read(tmp_path / "out.json").kernels] == ["first"]
    assert "2 of 3 cases were left out" in capsys.readouterr().out


def test_cases_are_many_or_few_and_none_twice():
    every, few = (
        [(c.kernel, c.case) for c in kernels.planned(CPU, torch.bfloat16, (), quick=quick, tiny=False)]
        for quick in (False, True)
    )
    assert len(set(every)) == len(every) > 190
    assert set(few) <= set(every) and len(few) <= 30
    decode = {case for kernel, case in few if kernel == "decode attention"}
    assert {f"llama-3.2-1b {prefix}+128 10x100" for prefix in (64, 128, 256, 512, 1024, 2048, 4096)} <= decode
    only = list(kernels.planned(CPU, torch.bfloat16, ("swiglu",), quick=True, tiny=False))
    assert {case.kernel for case in only} == {"swiglu"}


@pytest.mark.parametrize(
    "arguments", [["--only", "everything"], ["--seconds", "0"], ["--interpret", "--json", "x.json"], []], ids=str
)
def test_what_cannot_be_is_one_line(arguments, capsys):
    assert kernels.main(arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
