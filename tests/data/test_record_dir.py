"""The directory of records: whole or not at all, exactly once, whenever it is broken off."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from rftfast.data.record_dir import RecordDir, RecordIndex, read_records
from rftfast.errors import UserError
from tests.data.run_loop import at_line, interrupt

CONFIG, FINGERPRINTS = {"a": 1}, {"model": "m"}
RECORDS = [{"id": f"r{i}", "value": "é\u2028" * i, "more": [i, None]} for i in range(7)]


def open_dir(path: Path, **options: Any) -> RecordDir:
    return RecordDir.open(path, CONFIG, FINGERPRINTS, {}, **{"commit_records": 2, **options})


def fill(path: Path) -> None:
    with open_dir(path) as directory:
        done = directory.done()
        for record in RECORDS:
            if record["id"] not in done:
                directory.add(record)


def content(path: Path) -> list[str]:
    assert not [item for item in path.rglob(".*") if item.name.endswith(".tmp")]
    return sorted(json.dumps(record) for record in read_records(path))


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    fill(tmp_path / "d")
    assert list(read_records(tmp_path / "d")) == RECORDS
    with open_dir(tmp_path / "d") as directory:
        assert directory.resumed and directory.done() == {r["id"] for r in RECORDS}
    assert len(list((tmp_path / "d" / "parts").iterdir())) == 4
    index = RecordIndex(tmp_path / "d")
    assert len(index) == 7 and "r7" not in index and index.manifest["config"] == CONFIG
    assert [index.read(f"r{i}") for i in reversed(range(7))] == RECORDS[::-1]


def test_a_part_is_written_when_the_first_record_has_waited(tmp_path: Path) -> None:
    now = [0.0]
    with open_dir(tmp_path, commit_records=99, commit_seconds=5.0, clock=lambda: now[0]) as directory:
        directory.add(RECORDS[0])
        now[0] = 4.0
        directory.add(RECORDS[1])
        assert directory.done() == set()
        now[0] = 5.0
        directory.add(RECORDS[2])
        assert len(directory.done()) == 3


def test_another_configuration_another_process_and_another_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with open_dir(path), pytest.raises(UserError, match="in use"):
        open_dir(path)
    with pytest.raises(UserError, match=r"a 1 → 2"):
        RecordDir.open(path, {"a": 2}, FINGERPRINTS, {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="thesis"):
        open_dir(tmp_path / "other")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-5], "line 2: cut short"),
        (lambda data: b"", "empty"),
        (lambda data: b"{]\n" + data, "line 1: invalid JSON"),
        (lambda data: b'{"no": "id"}\n' + data, "line 1: not a record"),
        (lambda data: data + data, "record 'r2' is also in part-00001.jsonl"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Any, words: str) -> None:
    fill(tmp_path)
    part = tmp_path / "parts" / "part-00001.jsonl"
    part.write_bytes(damage(part.read_bytes()))
    with pytest.raises(UserError, match=f"part-00001.jsonl.*{words}"):
        open_dir(tmp_path)


def test_a_line_of_figures_that_was_cut_short_goes(tmp_path: Path) -> None:
    fill(tmp_path)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"time": 12')
    with open_dir(tmp_path) as directory:
        directory.metrics({"x": 1})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    assert [line.get("event", line.get("x")) for line in lines] == ["start", "resume", 1]


def test_killed_at_random_lines_nothing_is_lost_or_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A killed process loses nothing that it handed to the kernel, so these runs need not wait for the disk.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    before = sys.gettrace()
    lines = at_line(0, interrupt)
    fill(tmp_path / "whole")
    sys.settrace(before)
    expected, total, draw, broken = content(tmp_path / "whole"), lines(), random.Random(5), 0
    assert total > 300
    for number in range(8):
        path = tmp_path / str(number)
        while True:
            child = os.fork()
            if child == 0:
                at_line(draw.randrange(1, int(total * 1.2)), lambda: os.kill(os.getpid(), signal.SIGKILL))
                fill(path)
                os._exit(0)
            draw.random()
            status = os.waitpid(child, 0)[1]
            if status == 0:
                break
            assert os.WTERMSIG(status) == signal.SIGKILL
            broken += 1
        assert content(path) == expected
    assert broken > 8


def test_a_commit_interrupted_at_every_line_may_be_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    line, total = 0, 1
    while line <= total:
        path = tmp_path / str(line)
        before = sys.gettrace()
        with open_dir(path, commit_records=99) as directory:
            for record in RECORDS[:3]:
                directory.add(record)
            lines = at_line(line, interrupt)
            with contextlib.suppress(KeyboardInterrupt):
                directory.commit()
            sys.settrace(before)
            total = lines() if line == 0 else total
            directory.add(RECORDS[3])
        assert content(path) == sorted(json.dumps(record) for record in RECORDS[:4])
        line += 1
    assert total > 20


def test_a_disk_that_refuses_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_dir(tmp_path) as directory:
        directory.add(RECORDS[0])

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="disk full"):
            directory.add(RECORDS[1])
        monkeypatch.undo()
        assert directory.done() == set()
        directory.commit()
    assert list(read_records(tmp_path)) == RECORDS[:2]
