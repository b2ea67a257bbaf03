"""``rftfast synth`` as a user runs it. The endpoint itself is tested in tests/synth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import ENVIRONMENT, refused, rftfast
from tests.tiny_model import write_tiny_llama

pytest.importorskip("openai", reason="the openai client is not installed (pip install 'rftfast[synth]')")
pytest.importorskip("datasketch", reason="datasketch is not installed (pip install 'rftfast[synth]')")


def test_a_local_model_is_asked(tmp_path: Path) -> None:
    """A random model has nothing to say; that is told, and is no error."""
    model = write_tiny_llama(tmp_path / "model", context=2048)
    arguments = ["synth", "--model", model, "--out", tmp_path / "out", "--problems", 3, "--max-tokens", 24]
    arguments += ["--dtype", "float32", "--threads", 1, "--kv-memory", "16MiB", "--shown", 2]
    done = rftfast(*arguments)
    assert done.returncode == 0, done.stderr
    assert "not checked against any" in done.stderr and "dropped.jsonl" in done.stderr
    dropped = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [row["name"] for row in dropped] == ["p000000", "p000001", "p000002"]
    assert (tmp_path / "out" / "problems.jsonl").read_bytes() == b""
    again = rftfast(*arguments)
    assert again.returncode == 0 and "going on: 3 problems are stored" in again.stderr


def test_why_the_endpoint_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at port 9: the connection is refused."""
    monkeypatch.setitem(ENVIRONMENT, "OPENAI_API_KEY", "a-key")
    more = ["--teacher", "m", "--endpoint", "http://127.0.0.1:9/v1", "--retries", 0, "--problems", 2]
    done = rftfast("synth", "--out", tmp_path / "out", *more)
    assert "2 problems failed at the endpoint (the last: Connection error" in done.stderr, done.stderr
    assert "a-key" not in done.stderr


def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    out = ["--out", tmp_path / "out"]
    refused("name who is asked", "synth", *out)
    refused("name who is asked", "synth", *out, "--teacher", "a", "--model", "b")
    refused("no such file", "synth", *out, "--teacher", "a", "--evaluation", tmp_path / "none.jsonl")
    refused("is no address", "synth", *out, "--teacher", "a", "--endpoint", "nowhere")
