"""The run directory: what it holds, what it refuses, and who may write it."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rftfast.data import Completion, Question, RunDir, Verdict, lock, summarize
from rftfast.errors import UserError
from tests.data.run_loop import CONFIG, FINGERPRINTS, ORDER, QUESTIONS, add, content, do_run, open_run, samples_of

LOOP = Path(__file__).with_name("run_loop.py")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_layout_and_rows(tmp_path):
    path = tmp_path / "runs" / "first"
    question = Question("7", "How much is 3*4?", "It is <<3*4=12>>12.\n#### 12")
    completions = [
        Completion("7", 1, " 13", (1, 2), -0.5, "stop"),
        Completion("7", 0, " It is <<3*4=12>>12.\n#### 12", (3, 4, 5), -1.25, "eos"),
        Completion("7", 2, " #### 12", (6,), -2.0, "length"),
    ]
    verdicts = [Verdict("wrong_answer", "13"), Verdict("correct", "12", ("3*4=12",)), Verdict("correct", "12")]
    with open_run(path, notes={"threads": 2}, token_ids=True) as run:
        assert not run.resumed
        assert run.logs.is_dir()
        run.add(question, completions, verdicts, [2, 0], prompt="Q\nAnswer:", begin=" ")
        assert run.done() == set()
        run.commit()
        assert run.done() == {"7"}
        run.metrics({"tokens_per_second": 12.5})
        summary = run.summary()
    assert summary == {
        "questions": 1,
        "samples": 3,
        "accepted": 2,
        "distinct": 2,
        "solved": 1,
        "tokens": 6,
        "fewest": 3,
        "most": 3,
        "verdicts": {"correct": 2, "wrong_answer": 1},
    }
    assert summarize(path) == summary
    manifest = json.loads((path / "run.json").read_text())
    assert (manifest["config"], manifest["fingerprints"], manifest["notes"]) == (CONFIG, FINGERPRINTS, {"threads": 2})
    assert manifest["versions"] == {"rftfast": "0"}
    head, *samples = rows(path / "samples" / "part-00000.jsonl")
    assert head == {
        "kind": "question",
        "question_id": "7",
        "prompt": "Q\nAnswer:",
        "begin": " ",
        "gold": question.answer,
        "samples": 3,
    }
    assert samples[0] == {
        "kind": "sample",
        "question_id": "7",
        "sample_index": 0,
        "completion": " It is <<3*4=12>>12.\n#### 12",
        "verdict": "correct",
        "answer": "12",
        "equations": ["3*4=12"],
        "kept": True,
        "tokens": 3,
        "logprob": -1.25,
        "finish_reason": "eos",
        "token_ids": [3, 4, 5],
    }
    assert [(row["sample_index"], row["kept"]) for row in samples] == [(0, True), (1, False), (2, True)]
    assert list(RunDir.read_samples(path)) == samples
    base = {"prompt": "Q\nAnswer:", "question_id": "7"}
    assert rows(path / "rft.jsonl") == [
        {**base, "completion": " It is <<3*4=12>>12.\n#### 12", "source": "gold"},
        {**base, "completion": " It is <<3*4=12>>12.\n#### 12", "source": "sample", "sample_index": 0},
        {**base, "completion": " #### 12", "source": "sample", "sample_index": 2},
    ]
    assert [row.get("event", row.get("tokens_per_second")) for row in rows(path / "metrics.jsonl")] == ["start", 12.5]
    assert "token_ids" not in samples_without_ids(tmp_path / "other", question, completions, verdicts)


def samples_without_ids(path, question, completions, verdicts) -> dict:
    with open_run(path) as run:
        run.add(question, completions, verdicts, [], prompt="")
    return next(RunDir.read_samples(path))


def test_text_that_is_no_valid_unicode_is_kept(tmp_path):
    question = Question("7", "q", "a")
    with open_run(tmp_path) as run:
        run.add(question, [Completion("7", 0, "half \ud83d\n\u2028", ())], [Verdict("no_answer")], [0], prompt="p")
    with open_run(tmp_path) as run:
        assert run.done() == {"7"}
    assert next(RunDir.read_samples(tmp_path))["completion"] == "half \ud83d\n\u2028"


def test_parts_are_written_by_count_and_by_time(tmp_path):
    now = 0.0
    with open_run(tmp_path, commit_questions=3, commit_seconds=10, clock=lambda: now) as run:
        stored = []
        for seconds, question in zip([0, 1, 2, 50, 59, 60, 61], QUESTIONS, strict=False):
            now = float(seconds)
            add(run, question)
            stored.append(len(run.done()))
    # Three at once; then the first of the next three has waited 10 seconds; the last is stored by close().
    assert stored == [0, 0, 3, 3, 3, 6, 6]
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        "part-00000.jsonl",
        "part-00001.jsonl",
        "part-00002.jsonl",
    ]
    assert summarize(tmp_path)["questions"] == 7


def test_rft_rows_follow_each_part_and_end_in_question_order(tmp_path):
    with open_run(tmp_path) as run:
        for question in reversed(QUESTIONS[:6]):
            add(run, question)
        seen = [row["question_id"] for row in rows(tmp_path / "rft.jsonl")]
        assert list(dict.fromkeys(seen)) == ORDER[5::-1]
        run.finish(ORDER)
        seen = [row["question_id"] for row in rows(tmp_path / "rft.jsonl")]
        assert list(dict.fromkeys(seen)) == ORDER[:6]
        for question in QUESTIONS[6:10]:  # a finished run may go on
            add(run, question)
        run.finish(ORDER[::-1])
    seen = [row["question_id"] for row in rows(tmp_path / "rft.jsonl")]
    assert list(dict.fromkeys(seen)) == ORDER[9::-1]
    assert seen.count("q00") == 1 + len(samples_of(QUESTIONS[0])[2])


def test_the_same_command_again_changes_nothing(tmp_path):
    do_run(tmp_path)
    before, parts = content(tmp_path), sorted((tmp_path / "samples").iterdir())
    with open_run(tmp_path) as run:
        assert run.resumed
        assert run.done() == set(ORDER)
        run.finish(ORDER)
    assert content(tmp_path) == before
    assert sorted((tmp_path / "samples").iterdir()) == parts
    do_run(tmp_path / "backwards", backwards=True)
    assert content(tmp_path / "backwards") == before


def test_another_configuration_is_refused_field_by_field(tmp_path):
    do_run(tmp_path)
    before = content(tmp_path)
    config = {"k": 100, "temperature": 0.7, "stop": ["\n"]}
    with pytest.raises(UserError) as caught:
        RunDir.open(tmp_path, config, {"model": "other", "questions": "q"}, {}, notes={"threads": 9})
    message = str(caught.value)
    assert "k 4 → 100" in message
    assert 'stop (not there) → ["\\n"]' in message
    assert 'fingerprint of model "m" → "other"' in message
    assert "temperature" not in message
    assert "--out" in message
    assert content(tmp_path) == before


def test_nested_fields_tuples_versions_and_notes(tmp_path):
    config = {"sampling": {"k": 4, "stop": ("a", "b")}}
    RunDir.open(tmp_path, config, {}, {"torch": "1"}, notes={"threads": 1}).close()
    RunDir.open(tmp_path, {"sampling": {"stop": ["a", "b"], "k": 4}}, {}, {"torch": "2"}, notes={}).close()
    with pytest.raises(UserError, match=r"sampling\.k 4 → 5"):
        RunDir.open(tmp_path, {"sampling": {"k": 5, "stop": ("a", "b")}}, {}, {})
    assert [row["event"] for row in rows(tmp_path / "metrics.jsonl")] == ["start", "resume"]


def test_folders_that_are_no_run_directories(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"not a run directory \(it holds thesis\.tex\)"):
        open_run(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        open_run(tmp_path / "thesis.tex")
    with pytest.raises(UserError, match="Not a directory"):
        open_run(tmp_path / "thesis.tex" / "below")
    with pytest.raises(UserError, match="cannot be read"):
        list(RunDir.read_samples(tmp_path))
    (tmp_path / "empty").mkdir()
    do_run(tmp_path / "empty")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1, "config": {}}', '{"format": 1, "config": 3, "fingerprints": {}}']
)
def test_damaged_run_json(tmp_path, text):
    do_run(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        open_run(tmp_path)


def test_a_folder_of_runs_names_one(tmp_path):
    do_run(tmp_path / "seed-0")
    do_run(tmp_path / "greedy")
    with pytest.raises(UserError, match=r"it holds runs, name those, such as .*greedy$"):
        list(RunDir.read_questions(tmp_path))
    with pytest.raises(UserError, match="name the folder of a run"):
        list(RunDir.read_questions(tmp_path / "greedy" / "samples"))


def test_run_json_of_another_format_or_lost(tmp_path):
    do_run(tmp_path)
    file = tmp_path / "run.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(UserError, match="format 99"):
        open_run(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=r"samples but no run\.json"):
        open_run(tmp_path)


def damage(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "last line cut short": (lambda data: data[:-1], "cut short"),
    "cut in the middle of a line": (lambda data: data[: len(data) // 2], "cut short"),
    "cut between two lines": (lambda data: b"".join(data.splitlines(True)[:-1]), "has 3 samples where 4 were written"),
    "nothing left": (lambda data: b"", "empty"),
    "zeros": (lambda data: b"\0" * (len(data) - 1) + b"\n", "line 1: invalid JSON"),
    "a byte that is no UTF-8": (lambda data: data.replace("é".encode(), b"\xe9", 1), "line 2: invalid JSON"),
    "the first line lost": (lambda data: b"".join(data.splitlines(True)[1:]), "line 1: a sample that does not follow"),
    "a row of something else": (lambda data: b'{"kind": ["question"]}\n' + data, "line 1: not a row of a part"),
    "a column of another type": (lambda data: data.replace(b'"samples": 4', b'"samples": "4"', 1), "line 1: not a row"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_half_a_part_is_never_read_as_a_whole_one(tmp_path, case):
    do_run(tmp_path)
    before = content(tmp_path)
    change, expected = DAMAGES[case]
    part = tmp_path / "samples" / "part-00002.jsonl"
    damage(part, change)
    for attempt in (open_run, summarize):
        with pytest.raises(UserError) as caught:
            attempt(tmp_path)
        assert expected in str(caught.value)
        assert str(part) in str(caught.value)
        assert "remove that file" in str(caught.value)
    assert (tmp_path / "rft.jsonl").read_bytes() == before[0]
    part.unlink()  # the mend
    do_run(tmp_path)
    assert content(tmp_path) == before


def test_a_question_in_two_parts(tmp_path):
    do_run(tmp_path)
    samples = tmp_path / "samples"
    copied = samples / "part-00040.jsonl"
    copied.write_bytes((samples / "part-00001.jsonl").read_bytes())
    with pytest.raises(UserError, match=r"part-00040\.jsonl: question 'q03' is also in part-00001\.jsonl"):
        open_run(tmp_path)
    copied.unlink()
    part = samples / "part-00001.jsonl"
    damage(part, lambda data: data + data)
    with pytest.raises(UserError, match=r"part-00001\.jsonl: question 'q03' is also in part-00001\.jsonl"):
        open_run(tmp_path)


def test_parts_beyond_five_digits_and_other_files(tmp_path):
    with open_run(tmp_path) as run:
        for question in QUESTIONS[:3]:
            add(run, question)
    samples = tmp_path / "samples"
    (samples / "part-00000.jsonl").rename(samples / "part-99999.jsonl")
    (samples / "part-mine.jsonl").write_text("something else")
    do_run(tmp_path)
    names = {path.name for path in samples.iterdir()}
    numbers = (99999, 100000, 100001, 100002, 100003)
    assert names == {*(f"part-{number}.jsonl" for number in numbers), "part-mine.jsonl"}
    do_run(tmp_path / "other")
    assert content(tmp_path) == content(tmp_path / "other")


def test_what_a_killed_run_left_is_swept_and_mended(tmp_path):
    with open_run(tmp_path) as run:
        for question in QUESTIONS[:3]:
            add(run, question)
    (tmp_path / "samples" / ".part-00001.jsonl.tmp").write_text('{"kind": "question"')
    (tmp_path / ".rft.jsonl.tmp").write_text("half")
    (tmp_path / "rft.jsonl").write_text("torn")
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"time": 1')
    do_run(tmp_path)
    do_run(tmp_path / "other")
    assert content(tmp_path) == content(tmp_path / "other")
    assert [row["event"] for row in rows(tmp_path / "metrics.jsonl")] == ["start", "resume"]


def test_our_own_mistakes_are_asserted(tmp_path):
    question = QUESTIONS[0]
    completions, verdicts, _ = samples_of(question)
    with open_run(tmp_path) as run:
        for bad in (
            lambda: run.add(question, completions, verdicts[:-1], [], prompt=""),
            lambda: run.add(question, completions, verdicts, [4], prompt=""),
            lambda: run.add(question, completions[:1] * 2, verdicts[:2], [], prompt=""),
            lambda: run.add(QUESTIONS[1], completions, verdicts, [], prompt=""),
        ):
            with pytest.raises(AssertionError):
                bad()
        add(run, question)
        with pytest.raises(AssertionError, match="handed in already"):
            add(run, question)
        run.commit()
        with pytest.raises(AssertionError, match="stored already"):
            add(run, question)


def test_one_writer_at_a_time(tmp_path):
    with open_run(tmp_path):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"):
            open_run(tmp_path)
        answer = subprocess.run([sys.executable, LOOP, tmp_path, "open"], capture_output=True, text=True)
        assert "UserError" in answer.stderr
        assert f"in use by process {os.getpid()}" in answer.stderr
        assert list(RunDir.read_samples(tmp_path)) == []  # reading needs no lock
    open_run(tmp_path).close()


def test_the_lock_goes_when_opening_fails_or_an_error_ends_the_run(tmp_path):
    def break_off() -> None:
        with open_run(tmp_path) as run:
            add(run, QUESTIONS[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    with pytest.raises(UserError, match="another configuration"):
        RunDir.open(tmp_path, {}, {}, {})
    with open_run(tmp_path) as run:
        assert run.done() == {"q00"}  # a finished question is stored even when the run breaks off


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    run = open_run(tmp_path)
    leave = context.Event()
    child = context.Process(target=leave.wait)
    child.start()
    try:
        run.close()
        open_run(tmp_path).close()
    finally:
        leave.set()
        child.join()


def test_file_systems_without_locks(tmp_path, monkeypatch):
    def no_locks(*arguments):
        raise OSError(lock.errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with open_run(tmp_path), pytest.raises(UserError, match=r"in use by process .*; if it is dead, remove"):
        open_run(tmp_path)
    open_run(tmp_path).close()
    owner = tmp_path / ".lock.owner"
    assert not owner.exists()
    dead = subprocess.run(["true"], check=True) and subprocess.Popen(["true"])
    dead.wait()
    owner.write_text(f"process {dead.pid} on {socket.gethostname()}")
    open_run(tmp_path).close()
    for holder in (f"process {dead.pid} on another-machine", "", "process 1 on " + socket.gethostname()):
        owner.write_text(holder)
        with pytest.raises(UserError, match="in use"):
            open_run(tmp_path)
    owner.unlink()
    open_run(tmp_path).close()
