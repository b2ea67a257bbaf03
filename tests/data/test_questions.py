"""Question files: columns, ids, duplicates, and one clear line for everything that can be wrong with them."""

import json
import logging
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rftfast.data import Question, fingerprint, load_questions, question_hash
from rftfast.errors import UserError

ROWS = [{"question": "How much is 1+1?", "answer": "#### 2"}, {"question": "How much is 2+2?", "answer": "#### 4"}]


def write(path: Path, rows: list[dict], *, end: str = "\n") -> Path:
    path.write_text(end.join(json.dumps(row) for row in rows) + end, encoding="utf-8")
    return path


def renamed(rows: list[dict], question: str, answer: str) -> list[dict]:
    return [{question: row["question"], answer: row["answer"]} for row in rows]


@pytest.mark.parametrize(
    "columns",
    [
        ("question", "answer"),
        ("query", "response"),
        ("problem", "solution"),
        ("prompt", "completion"),
        ("problem", "answer"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_column_pair_in_every_file_type(tmp_path, columns, suffix):
    rows = renamed(ROWS, *columns)
    path = tmp_path / f"questions{suffix}"
    if suffix == ".parquet":
        pa = pytest.importorskip("pyarrow", reason="Parquet files are read through pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        write(path, rows)
    expected = [Question(question_hash(row["question"]), row["question"], row["answer"]) for row in ROWS]
    assert load_questions(path) == expected
    assert load_questions(str(path)) == expected


@pytest.mark.parametrize(
    "value",
    [
        {"data": ROWS},
        {"version": "1.0", "items": ROWS},
        {"train": ROWS, "test": [{"question": "another", "answer": "1"}]},
    ],
)
def test_a_json_object_that_holds_the_list(tmp_path, value):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(value))
    assert [question.answer for question in load_questions(path)] == ["#### 2", "#### 4"]


def test_split_picks_the_list_of_a_json_object(tmp_path):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"train": ROWS, "test": [{"question": "another", "answer": "1"}]}))
    assert [question.question for question in load_questions(path, split="test")] == ["another"]


def test_lines_in_a_file_named_json(tmp_path):
    assert len(load_questions(write(tmp_path / "questions.json", ROWS))) == 2
    assert len(load_questions(write(tmp_path / "one.json", ROWS[:1]))) == 1


def test_empty_lines_crlf_bom_and_line_separators_inside_strings(tmp_path):
    path = tmp_path / "questions.jsonl"
    text = '\ufeff{"question": "one\u2028line", "answer": "1"}\r\n\r\n{"question": "two", "answer": "2"}'
    path.write_bytes(text.encode())
    assert [question.question for question in load_questions(path)] == ["one\u2028line", "two"]


def test_ids_do_not_depend_on_order_limit_or_surrounding_space(tmp_path):
    padded = [{**row, "question": f"  {row['question']}\n"} for row in ROWS]
    there = {question.id for question in load_questions(write(tmp_path / "a.jsonl", ROWS))}
    back = {question.id for question in load_questions(write(tmp_path / "b.jsonl", padded[::-1]))}
    assert there == back
    assert {len(key) for key in there} == {16}
    assert load_questions(tmp_path / "a.jsonl", limit=1)[0].id == question_hash("How much is 1+1?")
    # A change of the hash would orphan every run directory there is.
    assert question_hash("How much is 1+1?") == "5ff43120b1dd5cda"


@pytest.mark.parametrize("column", ["id", "question_id", "uid"])
def test_the_files_own_id_column(tmp_path, column):
    rows = [{**row, column: number} for number, row in enumerate(ROWS, start=7)]
    assert [question.id for question in load_questions(write(tmp_path / "q.jsonl", rows))] == ["7", "8"]


def test_repeated_questions_are_dropped_and_counted(tmp_path, caplog):
    path = write(tmp_path / "q.jsonl", [*ROWS, {**ROWS[0], "answer": "#### 3"}, ROWS[1]])
    with caplog.at_level(logging.WARNING):
        questions = load_questions(path)
    assert [question.answer for question in questions] == ["#### 2", "#### 4"]
    assert "2 of 4 rows" in caplog.text
    assert "line 3" in caplog.text
    assert "1 of them with another answer (line 3 against line 1)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_questions(write(tmp_path / "alike.jsonl", [*ROWS, ROWS[1]]))
    assert "1 of 3 rows" in caplog.text
    assert "another answer" not in caplog.text


def test_a_solution_is_read_before_the_answer_beside_it(tmp_path):
    rows = [{"problem": "1+1?", "solution": "1+1=2\n#### 2", "answer": "2"}]
    assert [question.answer for question in load_questions(write(tmp_path / "q.jsonl", rows))] == ["1+1=2\n#### 2"]


def test_equal_questions_with_ids_of_their_own_stay(tmp_path, caplog):
    rows = [{"id": "a", **ROWS[0]}, {"id": "b", **ROWS[0]}]
    assert len(load_questions(write(tmp_path / "q.jsonl", rows))) == 2
    assert not caplog.records


def test_whole_numbers_may_be_answers(tmp_path):
    rows = [{"question": "a", "answer": 12}, {"question": "b", "answer": 12.0}, {"question": "c", "answer": 0.5}]
    assert [question.answer for question in load_questions(write(tmp_path / "q.jsonl", rows))] == ["12", "12", "0.5"]


GOOD = b'{"question": "a", "answer": "1"}\n'
BAD = {
    "invalid JSON at a line": ("q.jsonl", GOOD + b'{"question": "b", \n', ["line 2", "invalid JSON at column"]),
    "a line that is a list": ("q.jsonl", b"[1, 2]\n", ["line 1", "a list"]),
    "invalid JSON in a list": ("q.json", b'[{"question": "a",\n "answer" 1}]', ["line 2", "invalid JSON"]),
    "a number too long": ("q.jsonl", b'{"question": "a", "answer": ' + b"1" * 5000 + b"}", ["line 1", "digits"]),
    "brackets without end": ("q.jsonl", b"[" * 200_000, ["line 1"]),
    "rows that are no objects": ("q.json", b'[{"question": "a", "answer": "1"}, 3]', ["row 2", "a number"]),
    "a JSON text": ("q.json", b'"hello"', ["found text"]),
    "two lists": ("q.json", b'{"a": [], "b": []}', ["several lists (a, b)"]),
    "missing answer": ("q.jsonl", GOOD + b'\n{"question": "b"}\n', ["line 3", "'answer' is missing"]),
    "empty answer": ("q.json", b'[{"question": "a", "answer": " "}]', ["row 1", "'answer' is empty"]),
    "null question": ("q.jsonl", b'{"question": null, "answer": "1"}', ["line 1", "'question' is empty"]),
    "NaN": ("q.jsonl", b'{"question": "a", "answer": NaN}', ["line 1", "'answer' is not text"]),
    "messages for text": (
        "q.jsonl",
        b'{"prompt": [{"role": "user"}], "completion": "1"}',
        ["line 1", "not text (list)"],
    ),
    "half a pair": ("q.jsonl", b'{"question": "\\ud800", "answer": "1"}', ["line 1", "half a Unicode pair"]),
    "empty file": ("q.jsonl", b"", ["no rows"]),
    "blank file": ("q.json", b" \n\n", ["no rows"]),
    "empty list": ("q.json", b"[]", ["no rows"]),
    "not UTF-8": ("q.jsonl", GOOD + b'{"question": "caf\xe9", "answer": "1"}\n', ["line 2", "not UTF-8"]),
    "unknown columns": ("q.jsonl", b'{"input": "a", "output": "1"}\n', ["input, output", "question/answer"]),
    "half a pair of columns": ("q.jsonl", b'{"question": "a", "label": "1"}\n', ["column 'answer'", "question, label"]),
    "one id twice": (
        "q.jsonl",
        b'{"id": 1, "question": "a", "answer": "1"}\n{"id": "1", "question": "b", "answer": "2"}\n',
        ["line 2", "line 1", "id '1'"],
    ),
    "a row without its id": (
        "q.jsonl",
        b'{"id": 1, "question": "a", "answer": "1"}\n{"question": "b", "answer": "2"}\n',
        ["line 2", "'id' is missing"],
    ),
    "unknown suffix": ("q.csv", b"question,answer\n", [".csv", ".jsonl"]),
    "no suffix": ("q", GOOD, ["no suffix"]),
    "broken Parquet": ("q.parquet", b"PAR1 and then nothing", ["not a readable Parquet file"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_told_in_one_line(tmp_path, case):
    name, data, expected = BAD[case]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        load_questions(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_missing_files_folders_and_limits(tmp_path):
    for source in (
        tmp_path / "none",
        str(tmp_path / "none.jsonl"),
        "here/and/there",
        "none.parquet",
        "a\0b",
        "x" * 5000,
    ):
        with pytest.raises(UserError, match=r"no such file|cannot be looked up"):
            load_questions(source)
    with pytest.raises(UserError, match="folder"):
        load_questions(tmp_path)
    with pytest.raises(UserError, match="limit is 0"):
        load_questions(None, limit=0)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "q.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"rftfast\[parquet\]"):
        load_questions(tmp_path / "q.parquet")


def fake_datasets(monkeypatch, load_dataset):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


def test_hub_data_set(monkeypatch):
    calls = []

    def load_dataset(name, config, *, split):
        calls.append((name, config, split))
        return ROWS

    fake_datasets(monkeypatch, load_dataset)
    assert len(load_questions("someone/sums:main", split="test")) == 2
    assert len(load_questions("sums", limit=1)) == 1
    assert calls == [("someone/sums", "main", "test"), ("sums", None, "train")]


@pytest.mark.parametrize(
    "error", [ConnectionError("no\nroute"), ValueError("Unknown split"), FileNotFoundError("gone")]
)
def test_hub_failures(monkeypatch, error):
    def load_dataset(*args, **options):
        raise error

    fake_datasets(monkeypatch, load_dataset)
    with pytest.raises(UserError, match=r"someone/sums \(split train\): .*network") as caught:
        load_questions("someone/sums")
    assert "\n" not in str(caught.value)


def test_hub_without_the_datasets_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"rftfast\[hub\]"):
        load_questions("someone/sums")


def test_fingerprint_is_of_the_set():
    a, b = Question("1", "ab", "c"), Question("2", "x", "y")
    assert fingerprint([a, b]) == fingerprint([b, a])
    changed = [Question("1", "a", "bc"), Question("1", "ab", "d"), Question("3", "ab", "c")]
    assert len({fingerprint([b, other]) for other in (a, *changed)}) == 4
    assert fingerprint([a]) != fingerprint([a, b])


def test_gsm8k_reads_whole(gsm8k_dir, caplog):
    train, test = load_questions(gsm8k_dir / "train.jsonl"), load_questions(gsm8k_dir / "test.jsonl")
    assert (len(train), len(test)) == (7473, 1319)
    assert not caplog.records
    assert train[1].answer.endswith("#### 10")


def test_the_room_imports_nothing_heavy():
    code = (
        "import sys, rftfast.data;"
        "print([name for name in ('torch', 'transformers', 'pyarrow', 'datasets', 'pandas') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
