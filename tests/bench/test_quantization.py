"""What float8 does to a model: scores are the sampler's own, distances as by hand."""

import math

import pytest
import torch

from bench import quantization
from bench.schema import Result
from rftfast.engine import Sampler, SamplingParams


def test_scores_are_what_the_sampler_says_of_its_tokens(tiny_llama):
    sampler = Sampler.from_pretrained(tiny_llama, dtype="float32", threads=1, kv_memory="4MiB")
    prompt = list(b"one and one is")
    ((path,),) = sampler.generate([prompt], SamplingParams(k=1, temperature=0.7, max_tokens=20, ignore_eos=True))
    scores = quantization.log_probabilities(sampler, [*prompt, *path.token_ids], len(prompt))
    assert scores.shape == (20, sampler.config.vocab_size)
    own = scores[torch.arange(20), torch.tensor(path.token_ids)]
    torch.testing.assert_close(own, torch.tensor(path.logprobs), rtol=0, atol=1e-4)
    sampler.tree.check()
    assert sampler.tree.pinned_pages() == 0


def test_distances_by_hand():
    one, other = (
        torch.tensor(rows).log()
        for rows in ([[0.5, 0.25, 0.25], [0.2, 0.8, 0.0]], [[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]])
    )
    one, other = one.clamp(min=-100), other
    found = quantization.distance([(torch.tensor([0, 1]), one, other)])
    assert found.mean == pytest.approx(math.log(2) / 2)
    divergence = 0.5 * math.log(2) - 0.25 * math.log(2) + 0.2 * math.log(2)
    assert found.divergence == pytest.approx(divergence / 2, abs=1e-6) and found.agreement == 0.5


def test_the_program(tiny_llama, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["--model", str(tiny_llama), "--n-prompts", "2", "--max-tokens", "5", "--threads", "1"]
    assert quantization.main([*arguments, "--json", str(out)]) == 0
    said, figures = capsys.readouterr().out, Result.read(out).figures
    assert "bfloat16+fp8 from bfloat16" in said and figures["answers"] == 2
    near, far = (figures[f"{pair}: mean"] for pair in ("bfloat16 from float32", "bfloat16+fp8 from bfloat16"))
    assert 0 < near < far < 1
    assert quantization.main([*arguments[:-4], "--max-tokens", "600"]) == 2
    assert "512 in all" in capsys.readouterr().err
