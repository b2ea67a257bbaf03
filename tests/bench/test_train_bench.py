"""The training benchmark on a tiny random llama: every trainer sees the same documents and learns the same."""

import importlib.util
from dataclasses import replace

import pytest

from bench import train
from bench.schema import Measure, Result
from bench.train_job import TrainJob
from rftfast.errors import UserError

SMALL = ["--batch", "4", "--micro-batch", "2", "--steps", "2", "--row-tokens", "2048", "--threads", "1", "--lr", "1e-3"]


def arguments(tiny_llama, *more):
    return train._parser().parse_args(["--model", str(tiny_llama), *SMALL, *more])


@pytest.fixture
def job(tiny_llama, tmp_path):
    return train.build(arguments(tiny_llama), tmp_path)


def test_job_survives_its_file(job, tmp_path):
    job.write(tmp_path / "job.json")
    assert TrainJob.read(tmp_path / "job.json") == job


def test_batches_are_whole(job):
    assert [len(batch) for batch in job.batches] == [4, 4, 4]
    assert job.useful_tokens == sum(len(tokens) for tokens, _ in job.documents[4:])
    assert all(0 < prompt < len(tokens) for tokens, prompt in job.documents)


def test_a_small_set_is_gone_through_again(tiny_llama, tmp_path):
    found = train.build(arguments(tiny_llama, "--batch", "16"), tmp_path)
    assert len(found.documents) == 48
    assert len(set(found.documents)) == 16


def test_ours_and_the_trainer_of_transformers_learn_the_same(job):
    """In float32 the losses agree to rounding, step by step: batches, loss, clipping and AdamW are the same."""
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("accelerate is not installed, so transformers has no Trainer")
    losses = []
    for engine in ("rftfast-float32", "hf-trainer"):
        found = train.run_engine(replace(job, engine=engine), 300)
        assert isinstance(found, Measure), found
        assert (found.tokens, found.samples) == (job.useful_tokens, 8)
        assert found.extra["positions"] >= found.tokens
        losses.append(found.extra["losses"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-4)
    assert len(set(losses[0])) == 3


def test_trl_takes_part_or_says_why(job):
    found = train.run_engine(replace(job, engine="trl-bf16"), 300)
    if importlib.util.find_spec("trl") is None:
        assert found[0] == "skipped"
        assert "not installed" in found[1]
    else:
        assert isinstance(found, Measure), found
        assert found.tokens > 0


def test_command_from_arguments_to_file(tiny_llama, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert train.main(["--model", str(tiny_llama), *SMALL, "--engines", "rftfast", "--json", str(out)]) == 0
    result = Result.read(out)
    assert [row.engine for row in result.rows] == ["rftfast"]
    assert result.rows[0].tokens_per_s > 0 and 0 < result.rows[0].runs[0].extra["mfu"] < 1
    said = capsys.readouterr().out
    assert "useful tokens/s" in said and "(MFU)" in said


def test_failing_trainer_is_a_row(job, tmp_path):
    (row,) = train.measure_all(replace(job, model=str(tmp_path / "nothing")), ["rftfast"], 2, 120)
    assert row.status == "error"
    assert "nothing" in row.notes[0]


def test_rounds_and_what_is_measured_once(job, monkeypatch):
    asked = []

    def run_engine(job, timeout_s, worker):
        asked.append(job.engine)
        return Measure(1.0, 100, 1, extra={})

    monkeypatch.setattr(train, "run_engine", run_engine)
    rows = train.measure_all(job, ["rftfast", "trl-bf16"], 2, 1.0, once=["trl-bf16"])
    assert asked == ["rftfast", "trl-bf16", "rftfast"]
    assert [len(row.runs) for row in rows] == [2, 1]


def test_curves_are_held_against_ours():
    def row(engine, losses):
        return train.Row.of(engine, [Measure(1.0, 1, 1, extra={"losses": losses})])

    rows = [row("rftfast", [2.0, 1.0]), row("hf-trainer", [2.0, 1.01]), row("trl-bf16", [9.0, 9.0])]
    assert list(train.curves(rows).values()) == pytest.approx([1.0])
    rows += [row("hf-trainer-bf16", [2.04, 1.0]), row("rftfast-float32", [2.0, 1.01])]
    assert train.curves(rows) == {  # each with ours of its precision
        "loss of hf-trainer differs from rftfast-float32's at most by, %": 0,
        "loss of hf-trainer-bf16 differs from rftfast's at most by, %": pytest.approx(2.0),
        "loss of rftfast-float32 differs from rftfast's at most by, %": pytest.approx(1.0),
    }
    assert train.curves([row("hf-trainer", [1.0])]) == {}


@pytest.mark.parametrize("more", [["--engines", "vroom"], ["--batch", "3", "--micro-batch", "2"], ["--steps", "0"]])
def test_bad_arguments_are_one_line(more, capsys):
    assert train.main(more) == 2
    assert len(capsys.readouterr().err.strip().split("\n")) == 1


def test_messages_are_refused(tiny_llama, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    with pytest.raises(UserError, match="messages"):
        train.build(arguments(tiny_llama, "--data", str(path)), tmp_path)
