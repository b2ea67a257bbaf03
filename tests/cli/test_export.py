"""``rftfast export``: where the files go and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import refused, rftfast
from tests.made_runs import random_run, read_jsonl


def test_files_go_into_the_run_or_where_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    run = random_run(tmp_path / "run")
    for form, name in (
        ("prompt-completion", "prompt-completion.jsonl"),
        ("messages", "messages.jsonl"),
        ("preference", "preference.jsonl"),
        ("parquet", "rft.parquet"),
    ):
        done = rftfast("export", run, "--format", form)
        assert done.returncode == 0, done.stderr
        assert (run / name).stat().st_size > 0
        assert name in done.stderr
    out = tmp_path / "far.jsonl"
    assert rftfast("export", run, "-f", "preference", "--rejected", "farthest", "-o", out).returncode == 0
    assert list(read_jsonl(out)[0]) == ["prompt", "chosen", "rejected"]
    shown = rftfast("export", run, "-f", "messages", "-o", "-")
    assert shown.stdout == (run / "messages.jsonl").read_text()
    more = rftfast("export", run, "-f", "messages", "-o", "-", "--no-dedup")
    assert len(more.stdout.splitlines()) > len(shown.stdout.splitlines())


def test_bad_input_gets_one_line(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", k=2)
    refused("format is 'csv'", "export", run, "--format", "csv")
    refused("--no-dedup is not for", "export", run, "--format", "preference", "--no-dedup")
    refused("Parquet cannot go", "export", run, "--format", "parquet", "-o", "-")
    refused("--out is needed", "export", run / "rft.jsonl", "--format", "messages")
    assert not list(run.glob("csv*"))
