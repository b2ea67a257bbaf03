"""The benchmark on preference pairs on a tiny random llama: both trainers see the same pairs and learn the same."""

import importlib.util
import json
from dataclasses import replace

import pytest

from bench import dpo
from bench.dpo_job import PairJob
from bench.schema import Measure, Result, Row
from bench.train import measure_all, run_engine

SMALL = ["--batch", "4", "--micro-batch", "2", "--steps", "2", "--row-tokens", "2048", "--threads", "1", "--lr", "1e-4"]


def arguments(tiny_llama, *more):
    return dpo._parser().parse_args(["--model", str(tiny_llama), *SMALL, *more])


@pytest.fixture
def job(tiny_llama, tmp_path):
    return dpo.build(arguments(tiny_llama, "--cut"), tmp_path)


def test_job_survives_its_file(job, tmp_path):
    job.write(tmp_path / "job.json")
    assert PairJob.read(tmp_path / "job.json") == job


def test_pairs_are_whole(job):
    assert len(job.pairs) == 12
    assert len(job.measured) == 8
    assert job.useful_tokens == sum(2 * len(p) + len(c) + len(r) for p, c, r in job.pairs[4:])
    assert all(c[-1] == 257 and r[-1] != 257 and c != r for _, c, r in job.pairs)  # no end token after a line


def test_whole_answers_end(tiny_llama, tmp_path):
    found = dpo.build(arguments(tiny_llama), tmp_path)
    assert all(c[-1] == r[-1] == 257 for _, c, r in found.pairs)


def test_a_small_set_is_gone_through_again():
    rows = list(dpo.made_rows(None, 40, cut=False, seed=0))
    assert len({row["id"] for row in rows}) == 40
    assert len({(row["prompt"], row["rejected"]) for row in rows}) == 40
    assert all(row["chosen"] != row["rejected"] for row in rows)


def test_ours_and_trls_learn_the_same(job):
    """In float32 the losses agree to rounding, step by step: batches, loss, clipping and AdamW are the same."""
    ours = run_engine(replace(job, engine="rftfast-float32"), 300, dpo.WORKER)
    assert isinstance(ours, Measure), ours
    assert (ours.tokens, ours.samples) == (job.useful_tokens, 8)
    assert ours.extra["positions"] < ours.tokens
    assert ours.extra["reference_s"] > 0
    theirs = run_engine(replace(job, engine="trl"), 300, dpo.WORKER)
    if importlib.util.find_spec("trl") is None:
        assert theirs == ("skipped", "trl is not installed (pip install trl)")
        pytest.skip("trl is not installed; its row says so")
    assert isinstance(theirs, Measure), theirs
    assert theirs.tokens == ours.tokens < theirs.extra["positions"]
    # The Trainer rounds what it reports.
    assert ours.extra["losses"] == pytest.approx(theirs.extra["losses"], abs=2e-4)
    assert len(set(ours.extra["losses"])) == 3


def test_command_from_arguments_to_file(tiny_llama, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert dpo.main(["--model", str(tiny_llama), *SMALL, "--engines", "rftfast", "--json", str(out)]) == 0
    result = Result.read(out)
    assert [row.engine for row in result.rows] == ["rftfast"]
    assert result.settings["mean_prompt"] > 0
    assert "useful tokens/s" in capsys.readouterr().out


def test_pairs_from_a_file(tiny_llama, tmp_path, capsys):
    rows = list(dpo.made_rows(None, 13, cut=True, seed=0))
    file = tmp_path / "given.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = dpo.build(arguments(tiny_llama, "--data", str(file)), tmp_path)
    assert len(found.pairs) == 12
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    assert dpo.main(["--model", str(tiny_llama), *SMALL, "--data", str(file)]) == 2
    assert "5 pairs, and 12 are wanted" in capsys.readouterr().err
    file.write_text("".join(json.dumps({**row, "weight": 2}) + "\n" for row in rows))
    assert dpo.main(["--model", str(tiny_llama), *SMALL, "--data", str(file)]) == 2
    assert "pairs have weights" in capsys.readouterr().err


def test_failing_trainer_is_a_row(job, tmp_path):
    (row,) = measure_all(replace(job, model=str(tmp_path / "nothing")), ["rftfast"], 2, 120, dpo.WORKER)
    assert row.status == "error"
    assert "nothing" in row.notes[0]


def test_figures():
    def row(engine, losses, **extra):
        return Row.of(engine, [Measure(2.0, 100, 1, extra={"losses": losses, **extra})])

    found = dpo.figures([row("rftfast", [0.7, 0.5], reference_s=2.0), row("trl-bf16", [0.7, 0.49])])
    assert list(found.values()) == pytest.approx([25.0, 50.0, 0.01])


@pytest.mark.parametrize("more", [["--engines", "vroom"], ["--batch", "3", "--micro-batch", "2"], ["--steps", "0"]])
def test_bad_arguments_are_one_line(more, capsys):
    assert dpo.main(more) == 2
    assert len(capsys.readouterr().err.strip().split("\n")) == 1
