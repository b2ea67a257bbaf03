"""The selection benchmark, small: both ways keep the same paths, and a difference is an error."""

from __future__ import annotations

import pytest

from bench import select_paths as bench


def test_both_keep_the_same(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CASES", ((12, 3), (30, 5)))
    assert bench.main(["--pools", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" paths")[0].strip() for line in lines] == ["12", "30"]


def test_a_difference_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CASES", ((12, 3),))
    monkeypatch.setattr(bench, "as_published", lambda paths: [])
    assert bench.main(["--pools", "2"]) == 1
    assert "different paths" in capsys.readouterr().err
