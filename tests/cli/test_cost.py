"""``rftfast cost``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rftfast.errors import UserError
from rftfast.evaluate.estimate import estimate
from tests.cli.commands import refused, rftfast
from tests.evaluate.test_workload import CONFIG
from tests.made_runs import make_run
from tests.tiny_model import write_tiny_llama


def test_a_published_shape_needs_nothing_else() -> None:
    done = rftfast("cost", "llama-7b", "--utilisation", 0.5, "--saved", 0.1)
    assert done.returncode == 0, done.stderr
    for words in (
        "6.738 B parameters",
        "pre-training",
        "prompts shared",
        "early stop",
        "GPU time ≥",
        "36,729 h",
        "at 50%",
        "512.0 KiB",
    ):
        assert words in done.stdout, words
    assert "bf16, 2.04 TB/s" in done.stdout


def test_given_numbers_replace_measured_ones(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m")
    run = make_run(tmp_path / "r", {"q1": ["#### 3", "no"], "q2": ["#### 9", "no"]}, config=CONFIG)
    done = rftfast("cost", model, "--run", run, "--count", 1000, "--gpu", "h200", "--json", "-")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["workload"]["questions"] == 1000
    assert report["workload"]["k"] == 2
    assert report["gpu"]["name"] == "H200"
    names = [stage["name"] for stage in report["stages"]]
    assert names == [
        "SFT, 3 epochs",
        "sampling, prompts alone",
        "sampling, prompts shared",
        "… and early stop",
        "RFT, 3 epochs",
    ]
    alone, shared, stopped = report["stages"][1:4]
    assert alone["flops"] > shared["flops"] >= stopped["flops"] > 0


def test_bad_input_gets_one_line() -> None:
    refused("not in the table", "cost", "llama-7b", "--gpu", "K80")


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("llama-7b", {"questions": "q.jsonl"}, "--tokenizer"),
        ("llama-7b", {"questions": "q.jsonl", "run": "r"}, "not both"),
        ("llama-7b", {"epochs": 0}, "epochs is 0"),
        ("llama-7b", {"batch": 0}, "batch is 0"),
        ("llama-7b", {"pretrain_tokens": -1.0}, "pretrain-tokens is -1"),
        ("shape:gpt-9", {}, "no such shape"),
        ("nowhere", {}, "no such file or folder"),
    ],
)
def test_refused(model: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        estimate(model, **options)
