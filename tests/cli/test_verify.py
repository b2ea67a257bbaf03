"""``rftfast verify``: rows in, rows with verdicts out; one row at a time."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import ENVIRONMENT, ROOT, refused, rftfast
from tests.made_runs import make_run, random_run, read_jsonl, write_jsonl

ROWS = [
    {"id": 1, "completion": "<<6*3=18>>18\n#### 18", "answer": "so\n#### 18"},
    {"response": "<<6*3=19>>\n#### 18", "answer": 18, "more": [1, None]},
    {"completion": "#### 7\nno, #### $1,018.00", "answer": "1018"},
    {"completion": "nothing", "answer": "18", "finish_reason": "length", "verdict": "correct"},
    {"completion": "nothing \ud83d\0", "answer": "18"},
]
VERDICTS = ["correct", "wrong_equation", "correct", "truncated", "no_answer"]


def test_rows_are_passed_on_with_their_verdicts(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", ROWS)
    done = rftfast("verify", file)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["verdict"] for row in found] == VERDICTS
    assert [row["parsed_answer"] for row in found] == ["18", "18", "1018", None, None]
    assert [row["equations"] for row in found] == [["6*3=18"], ["6*3=19"], [], [], []]
    added = ("verdict", "parsed_answer", "equations")
    for row, given in zip(found, ROWS, strict=True):
        assert {k: v for k, v in row.items() if k not in added} == {k: v for k, v in given.items() if k not in added}
    assert "5 rows: 2 correct (40.0 %)" in done.stderr
    again = rftfast("verify", "-", "-o", tmp_path / "out.jsonl", stdin=file.read_bytes())
    assert again.returncode == 0 and again.stdout == ""
    assert read_jsonl(tmp_path / "out.jsonl") == found


@pytest.mark.parametrize(
    ("row", "options", "before", "after"),
    [
        ({"completion": "#### 18\n#### 7", "answer": "18"}, ["--marker", "first"], "wrong_answer", "correct"),
        (
            {"completion": "<<2*3=6=7>>\n#### 6", "answer": "6"},
            ["--equations", "reference"],
            "wrong_equation",
            "correct",
        ),
        ({"completion": "<<2*3=7>>\n#### 6", "answer": "6"}, ["--equations", "off"], "wrong_equation", "correct"),
        ({"completion": "2 * 3 = 7\n#### 6", "answer": "6"}, ["--bare"], "correct", "wrong_equation"),
        ({"completion": "#### 6\n\nQ: #### 7", "answer": "6"}, ["--stop", r"\n\nQ"], "wrong_answer", "correct"),
    ],
)
def test_policies(row: dict[str, str], options: list[str], before: str, after: str) -> None:
    data = json.dumps(row).encode()
    for given, verdict in (([], before), (options, after)):
        done = rftfast("verify", "-", *given, stdin=data)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["verdict"] == verdict
        assert json.loads(done.stdout)["completion"] == row["completion"]


def test_a_run_is_judged_anew(tmp_path: Path) -> None:
    """By its own policy it gives its own training rows; by another, others, as if it had been sampled with that."""
    run = random_run(tmp_path / "run")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    done = rftfast("verify", run)
    assert done.returncode == 0, done.stderr
    assert "180 rows: " in done.stderr
    selected = rftfast("select", "-", stdin=done.stdout.encode())
    assert selected.stdout == (run / "rft.jsonl").read_text()
    unchecked = rftfast("verify", run, "--equations", "off", "-o", tmp_path / "out.jsonl")
    assert unchecked.returncode == 0
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [(row["question_id"], row["sample_index"]) for row in rows] == sorted(
        (row["question_id"], row["sample_index"]) for row in rows
    )
    right = [row for row in rows if row["verdict"] == "correct"]
    assert len(right) > done.stdout.count('"verdict": "correct"')
    assert all(row["parsed_answer"] == row["answer"].split()[-1] for row in right)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    bare = make_run(tmp_path / "bare", {"q1": ["1 + 2 = 3\n#### 3", "2 + 1 = 3\n#### 3", "2 + 2 = 3\n#### 3"]})
    judged = rftfast("verify", bare, "--bare")
    assert [json.loads(line)["equations"] for line in judged.stdout.splitlines()] == [
        ["1 + 2 = 3"],
        ["2 + 1 = 3"],
        ["2 + 2 = 3"],
    ]
    kept = rftfast("select", "-", stdin=judged.stdout.encode()).stdout.splitlines()
    assert [json.loads(row)["sample_index"] for row in kept[1:]] == [0, 1]
    refused("nowhere: cannot be read", "verify", tmp_path / "nowhere")
    refused("run.json", "verify", tmp_path)


def test_the_policy_is_said() -> None:
    data = json.dumps(ROWS[0]).encode()
    assert "policy: last marker, equations strict\n" in rftfast("verify", "-", stdin=data).stderr
    done = rftfast("verify", "-", "--marker", "first", "--equations", "reference", "--bare", stdin=data)
    assert "policy: first marker, equations reference, bare\n" in done.stderr


def test_latex_answers(tmp_path: Path) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (pip install 'rftfast[math]')")
    rows = [
        {"question_id": "a", "completion": r"\boxed{\sqrt{3}/2}", "answer": r"so \boxed{\frac{\sqrt{3}}{2}}"},
        {"question_id": "a", "completion": r"\boxed{\sqrt{3}}", "answer": r"so \boxed{\frac{\sqrt{3}}{2}}"},
        {"question_id": "b", "completion": r"\boxed{x" + "+x" * 300 + "}", "answer": "x"},
        {"question_id": "b", "completion": "#### 1,080", "answer": "1080"},
    ]
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    refused("line 1: the gold answer", "verify", file)
    done = rftfast("verify", file, "--math")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["verdict"] for row in found] == ["correct", "wrong_answer", "timeout", "correct"]
    assert found[0]["parsed_answer"] == r"\sqrt{3}/2"
    assert "policy: last marker, equations strict, math\n" in done.stderr
    selected = rftfast("select", file, "--math")
    assert selected.returncode == 0, selected.stderr
    assert rftfast("select", "-", stdin=done.stdout.encode()).stdout == selected.stdout
    assert [json.loads(line)["source"] for line in selected.stdout.splitlines()] == ["gold", "sample", "sample"]


def test_without_math_verify_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from rftfast.cli import options
    from rftfast.errors import UserError
    from rftfast.verify.math_pool import require_math_verify

    require_math_verify.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        with pytest.raises(UserError, match=r"pip install 'rftfast\[math\]'"):
            options.policy("last", "strict", False, True)
    finally:
        require_math_verify.cache_clear()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is played by Linux's /dev/full")
@pytest.mark.parametrize("rows", [1, 5_000])
def test_a_full_disk_behind_standard_output(tmp_path: Path, rows: int) -> None:
    """Whether it shows at the first write or at the last."""
    file = write_jsonl(tmp_path / "in.jsonl", ROWS[:1] * rows)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rftfast.cli.main", "verify", str(file)],
            cwd=ROOT, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write standard output (No space left") and done.stderr.count("\n") == 1


def test_files_as_other_systems_write_them(tmp_path: Path) -> None:
    """A byte order mark, line ends of two characters, empty lines, no line end at the end."""
    data = b"\xef\xbb\xbf" + b"\r\n\r\n".join(json.dumps(row).encode() for row in ROWS)
    done = rftfast("verify", "-", stdin=data)
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == VERDICTS


HOSTILE = [
    ("<<" * 500_000 + "#### 18", "wrong_equation"),
    ("#### " + "9" * 1_000_000, "no_answer"),
    (f"<<{'(' * 500_000}5{')' * 500_000}=5>>#### 18", "wrong_equation"),
    ("<<9**9**9**9=1>>#### 18", "wrong_equation"),
    ("<<1+1=2>>" * 50_000 + "#### 18", "timeout"),
    ("\0" * 1_000_000 + "#### 18", "no_answer"),
    ("#### 18" + "\ud800" * 1_000_000, "correct"),
]


def test_hostile_rows(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", [{"completion": text, "answer": "18"} for text, _ in HOSTILE])
    began = time.monotonic()
    done = rftfast("verify", file)
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == [verdict for _, verdict in HOSTILE]
    assert time.monotonic() - began < 20  # a second on a quiet machine, most of it the start


def test_bad_rows_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    good = json.dumps(ROWS[0]).encode() + b"\n"
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    for line, words in (
        (b"{", "line 1002: invalid JSON at column 2"),
        (b'{"completion": "x"', "line 1002: invalid JSON at column 19"),
        (b'{"completion": "x", "answer": NaN}', "line 1002: the gold answer 'nan'"),
        (b'{"completion": ["x"], "answer": "1"}', "line 1002: 'completion' is [\"x\"]"),
        (b"[1]", "line 1002: expected a JSON object"),
        (b'{"completion": "\xff"}', "line 1002: not UTF-8"),
        (b'{"completion": "x"}', "line 1002: no column 'answer'"),
        (b'{"answer": "1"}', "line 1002: no column 'completion' or 'response'"),
        (b'{"completion": null, "answer": "1"}', "line 1002: 'completion' is null"),
        (b'{"completion": "x", "answer": "plenty"}', "line 1002: the gold answer 'plenty' holds no number"),
        (b"[" * 100_000, "line 1002: JSON that cannot be used"),
    ):
        refused(f"standard input, {words}", "verify", "-", "-o", out, stdin=good * 1000 + b"\n" + line + b"\n" + good)
    assert out.read_text() == "old"
    refused("no rows", "verify", "-")
    refused("standard input: a Parquet file; only JSONL is read here", "verify", "-", stdin=b"PAR1\x15\x04\xff\xfe")
    refused("standard input: a gzip file; only JSONL is read here", "select", "-", stdin=gzip.compress(good))
    refused("nowhere.jsonl: cannot be read", "verify", tmp_path / "nowhere.jsonl")
    refused("marker is 'middle'", "verify", "-", "--marker", "middle", stdin=good)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def row(i: int) -> str:  # all different, so that what is remembered of them shows
        text = "word " * 400 + f"<<{i}+1={i + 1}>>\n#### {i + 1}"
        return json.dumps({"completion": text, "answer": str(i + 1)}) + "\n"

    peaks = []
    for count in (2_000, 30_000):  # 4 MB and 60 MB
        file = tmp_path / f"{count}.jsonl"
        file.write_text("".join(row(i) for i in range(count)))
        code = (
            "from rftfast.cli.main import app; "
            f"app(['verify', {str(file)!r}, '-o', '/dev/null'], standalone_mode=False); "
            # The peak of this program alone; getrusage would count the process it was started from, too.
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 15_000, peaks  # KiB


def test_a_reader_that_goes_away_is_no_crash(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", ROWS[:1] * 20_000)
    command = f"{sys.executable} -m rftfast.cli.main verify {file} | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert json.loads(done.stdout)["verdict"] == "correct"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_torch_is_not_loaded() -> None:
    code = (
        "import sys, io; from rftfast.cli.main import app; import rftfast.verify.rows, rftfast.pipeline.files; "
        "print([m for m in ('torch', 'transformers', 'matplotlib', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
