from __future__ import annotations

from pathlib import Path

import pytest

from rftfast.study.costs import Cost, cost_of
from tests.study.made_studies import graph_of

PAPER = """
    title: Table 4
    steps:
      sft: {kind: sft, model: llama-7b, data: QUESTIONS, prompt: alpaca}
      samples: {kind: sample, model: $sft, questions: QUESTIONS, k: 100}
      own: {kind: select, runs: $samples}
      three: {kind: select, runs: $samples, first: 3}
      every: {kind: select, runs: $samples, dedup: false}
      rft: {kind: rft, model: llama-7b, data: $own}
      rft-3: {kind: rft, model: llama-7b, data: $three}
      rft-every: {kind: rft, model: llama-7b, data: $every}
      greedy: {kind: eval, model: $rft, questions: QUESTIONS, k: 0}
      unknown: {kind: sft, model: someone/else, data: QUESTIONS, prompt: alpaca}
"""


def test_the_papers_table_4(tmp_path: Path) -> None:
    questions = tmp_path / "train.jsonl"
    questions.write_text('{"question": "q", "answer": "#### 1"}\n' * 7473)
    graph = graph_of(tmp_path, PAPER.replace("QUESTIONS", str(questions)))
    flops = {name: cost_of(step, graph).flops for name, step in graph.items()}
    assert flops["sft"] == pytest.approx(1.7e17, rel=0.05)
    assert flops["samples"] == pytest.approx(1.4e18, rel=0.1)
    # 47 thousand rows instead of 7.5, and 15 thousand for k = 3 (Table 5).
    assert flops["rft"] / flops["sft"] == pytest.approx(47 / 7.473, rel=0.02)
    assert flops["rft-3"] / flops["sft"] == pytest.approx(15 / 7.473, rel=0.02)
    assert flops["rft-every"] / flops["sft"] == pytest.approx(406 / 7.473, rel=0.02)
    assert flops["greedy"] < flops["samples"] / 50
    assert flops["unknown"] == flops["own"] == 0


def test_of_the_made_up_world(tmp_path: Path) -> None:
    graph = graph_of(
        tmp_path,
        """
        title: t
        steps:
          world: {kind: world, train: 100, test: 50}
          part: {kind: questions, source: $world/train.jsonl, fraction: 0.5}
          blank: {kind: blank, tokens: 1000000}
          base: {kind: pretrain, model: $blank, data: $blank/text.jsonl, prompt: plain}
          sft: {kind: sft, model: $base, data: $world/train.jsonl, prompt: plain}
          half: {kind: sft, model: $base, data: $part, prompt: plain}
        """,
    )
    flops = {name: cost_of(step, graph).flops for name, step in graph.items()}
    assert flops["sft"] == pytest.approx(2 * flops["half"])
    # Six operations a weight and token; attention and head on top.
    assert 6 * 1.2e6 * 3e6 < flops["base"] < 12 * 1.2e6 * 3e6


def test_of_pairs(tmp_path: Path) -> None:
    """A pair takes two documents, and the reference a forward pass over all."""
    text = """
        title: t
        steps:
          dpo: {kind: dpo, model: llama-7b, data: PAIRS, epochs: 3}
          sft: {kind: sft, model: llama-7b, data: PAIRS, epochs: 1, prompt: plain}
          samples: {kind: sample, model: llama-7b, questions: PAIRS}
          made: {kind: pairs, run: $samples}
          later: {kind: dpo, model: llama-7b, data: $made}
        """
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n' * 100)
    graph = graph_of(tmp_path, text.replace("PAIRS", str(tmp_path / "pairs.jsonl")))
    flops = {name: cost_of(step, graph).flops for name, step in graph.items()}
    assert flops["dpo"] / flops["sft"] == pytest.approx(2 * (3 + 1 / 3))
    assert flops["later"] == flops["made"] == 0  # how many pairs there will be is not known


def test_in_words() -> None:
    assert Cost().text() == ""
    assert (Cost(1e15, 0.25) + Cost(1e15, 0.25)).text() == ", 2.0e+15 FLOP, ≥ 0.5 A100-80GB hours"
    assert Cost(1e9, 1e-9).text(" ") == " 1.0e+09 FLOP"
