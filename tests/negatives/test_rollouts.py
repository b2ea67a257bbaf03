"""Rollouts of a policy whose values are known exactly: estimates, names, kill and resume, bisection."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rftfast.data.run_dir import RunDir
from rftfast.errors import UserError
from rftfast.negatives import rollouts
from rftfast.negatives.job import RolloutOptions, prepare
from rftfast.negatives.pits import PitRule, first_pit
from rftfast.negatives.responses import Response
from rftfast.negatives.source import Source
from rftfast.negatives.step_rows import read_rolled
from tests.negatives.hand_made import make_run as hand_made
from tests.negatives.toy import ToySampler, exact_q, make_run, roll

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("toy"))


def lines_of(text: str) -> str:
    return "".join(line for line in text.split() if line in "ox")


def test_values_are_the_exact_ones(run: Path, tmp_path: Path) -> None:
    n = 150
    roll(
        prepare(RolloutOptions(run, negatives=4, positives=2, rollouts=n, temperature=0.9)),
        ToySampler(),
        tmp_path / "r",
    )
    held = states = 0
    for question in read_rolled(tmp_path / "r"):
        for response in question.responses:
            lines = lines_of(response.text)
            values = question.values(response, best_of=1, level=0.99, interval="clopper-pearson")
            assert len(values) == len(response.ends) + 1 == 7
            for i, value in enumerate(values):
                assert value is not None
                q = exact_q(lines[:i])
                assert abs(value.q - q) < 5 * (q * (1 - q) / n) ** 0.5 + 1e-9, (lines, i)
                held += value.low <= q <= value.high
                states += 1
            assert values[-1].q == float(response.right) and values[-1].trials is None  # type: ignore[union-attr]
    assert states > 200 and held / states > 0.97


def test_the_samples_of_the_run_tell_what_the_question_is_worth(run: Path, tmp_path: Path) -> None:
    """Where they were drawn as rollouts from the prompt would be; else it is rolled out, too."""
    options = RolloutOptions(run, negatives=2, rollouts=3)
    roll(prepare(options), ToySampler(), tmp_path / "same")
    roll(prepare(replace(options, temperature=0.9)), ToySampler(), tmp_path / "other")
    roll(prepare(replace(options, rollouts=31)), ToySampler(), tmp_path / "more")
    stored = {q.id: q for q in RunDir.read_questions(run)}
    for question in read_rolled(tmp_path / "same"):
        right = sum(Response.of(row).right for row in stored[question.id].samples)
        assert question.sampled == (right, 30)
        assert all(response.states[0] is None for response in question.responses)
    for name, n in (("other", 3), ("more", 31)):
        for question in read_rolled(tmp_path / name):
            assert question.sampled is None
            start = {response.states[0] for response in question.responses}
            assert len(start) == 1 and len(question.states[start.pop()].rollouts) == n  # type: ignore[arg-type]


def test_the_order_in_which_rollouts_come_back_changes_nothing(run: Path, tmp_path: Path) -> None:
    for extra in ({}, {"bisect": True, "positives": 1}):
        job = prepare(RolloutOptions(run, rollouts=4, **extra))  # type: ignore[arg-type]
        written = {roll(job, ToySampler(order=i), tmp_path / f"{i} {len(extra)}") for i in range(3)}
        assert len(written) == 1


def test_prefixes_that_begin_alike_are_one_state_under_the_first_responses_name(run: Path, tmp_path: Path) -> None:
    sampler = ToySampler()
    roll(prepare(RolloutOptions(run, negatives=8, rollouts=2, temperature=0.5)), sampler, tmp_path / "r")
    names = [request.name for request in sampler.requests]
    assert len(set(names)) == len(names) == len({request.tokens for request in sampler.requests})
    for question in read_rolled(tmp_path / "r"):
        prefixes: dict[str, int | None] = {}
        for response in question.responses:
            for step, number in enumerate(response.states):
                prefix = response.text[: (0, *response.ends)[step]]
                assert prefixes.setdefault(prefix, number) == number
                assert number is not None and question.states[number].tokens == len(prefix) + bool(prefix)
        assert len(prefixes) == len(question.states)
        first = question.responses[0]
        assert question.states[first.states[1]].name == f"{question.id}/{first.sample_index}/1"  # type: ignore[index]


def test_a_responses_longest_prefix_is_asked_for_first(run: Path, tmp_path: Path) -> None:
    sampler = ToySampler()
    roll(prepare(RolloutOptions(run, negatives=1, rollouts=2, temperature=0.5)), sampler, tmp_path / "r")
    by_question: dict[str, list[int]] = {}
    for request in sampler.requests:
        by_question.setdefault(request.name.split("/")[0], []).append(len(request.tokens))
    assert by_question and all(n == sorted(n, reverse=True) and len(n) == 6 for n in by_question.values())


def test_a_rollout_has_the_tokens_that_its_prefix_leaves(run: Path, tmp_path: Path) -> None:
    sampler = ToySampler()
    job = prepare(RolloutOptions(run, negatives=1, rollouts=2, temperature=0.5, max_tokens=300))
    roll(job, sampler, tmp_path / "r")
    for request in sampler.requests:
        prompt = job.source.prompt(job.source.read(request.name.split("/")[0]), job.tokenizer)
        assert request.tokens[: len(prompt.tokens)] == prompt.tokens
        assert prompt.text.count("Question:") == 3, "two worked examples, as sampled"
        assert request.params.max_tokens == 300 - (len(request.tokens) - len(prompt.tokens))


def test_without_stored_token_ids_the_text_is_made_tokens_again_and_that_is_said(run: Path, tmp_path: Path) -> None:
    again = make_run(tmp_path, token_ids=False)
    found = {}
    for name, path in (("ids", run), ("text", again)):
        sampler = ToySampler()
        roll(prepare(RolloutOptions(path, rollouts=2)), sampler, tmp_path / name)
        (flags,) = {r.retokenised for q in read_rolled(tmp_path / name) for r in q.responses}
        found[name] = flags, {(r.name, r.tokens) for r in sampler.requests}
    assert found["ids"][0] is False and found["text"][0] is True
    assert found["ids"][1] == found["text"][1], "a byte is a token here, so they are the same ones"


@pytest.mark.parametrize("bisect", [False, True])
def test_broken_off_it_goes_on_to_the_same_content(
    run: Path, tmp_path: Path, bisect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "_COMMIT_QUESTIONS", 1)
    job = prepare(RolloutOptions(run, rollouts=4, positives=3, bisect=bisect))
    whole = ToySampler()
    expected = roll(job, whole, tmp_path / "whole")
    drawn, broken = 0, 0
    for stop in (5, 150, 190, 10_000):
        sampler = ToySampler(order=stop, stop_after=stop)
        try:
            written = roll(job, sampler, tmp_path / "run")
        except KeyboardInterrupt:
            broken += 1
        stored = list(read_rolled(tmp_path / "run"))
        assert len({q.id for q in stored}) == len(stored)
        drawn += sampler.tokens
    assert broken >= 2 and written == expected
    assert len(stored) == 6
    again = ToySampler()
    assert roll(job, again, tmp_path / "run") == expected and not again.requests, "nothing is drawn twice"


def test_killed_it_goes_on_to_the_same_content(run: Path, tmp_path: Path) -> None:
    expected = roll(prepare(RolloutOptions(run, rollouts=4, positives=3)), ToySampler(), tmp_path / "whole")
    command = [sys.executable, "-m", "tests.negatives.toy", str(run), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parts = tmp_path / "run" / "parts"
    with subprocess.Popen(command, cwd=ROOT, env=environment) as killed:
        deadline = time.monotonic() + 60
        while not any(parts.glob("part-*")) and time.monotonic() < deadline:
            assert killed.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert 0 < len(list(read_rolled(tmp_path / "run"))) < 6
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120)
    assert (tmp_path / "run" / "steps.jsonl").read_bytes() == expected


def test_bisection_finds_the_pit_with_fewer_rollouts(run: Path, tmp_path: Path) -> None:
    """With the same names, so the same rollouts, as the full estimate."""
    k = 25  # an alive state passes for dead once in a million
    full, short = ToySampler(), ToySampler()
    roll(prepare(RolloutOptions(run, rollouts=k)), full, tmp_path / "full")
    job = prepare(RolloutOptions(run, rollouts=k, bisect=True))
    with rollouts.open_rollouts(job, short, tmp_path / "bisect", {}) as directory:  # type: ignore[arg-type]
        progress = rollouts.run(job, short, directory, lambda progress: None)  # type: ignore[arg-type]
    every = {q.id: q for q in read_rolled(tmp_path / "full")}
    pits = 0
    for question in read_rolled(tmp_path / "bisect"):
        for mine, other in zip(question.responses, every[question.id].responses, strict=True):
            assert mine.sample_index == other.sample_index
            lines = lines_of(mine.text)
            true = next(i for i in range(1, 7) if i == 6 or exact_q(lines[:i]) == 0)
            assert first_pit(question, mine) == first_pit(every[question.id], other) == true, lines
            pits += 1
    assert pits > 30
    assert short.tokens < 0.7 * full.tokens
    assert short.tokens + progress.spared_tokens == pytest.approx(full.tokens, rel=0.15)
    with pytest.raises(UserError, match="without --bisect"):
        first_pit(question, mine, PitRule("least-advantage"))


def test_right_responses_are_taken_apart_in_full_beside_a_bisection(run: Path, tmp_path: Path) -> None:
    roll(prepare(RolloutOptions(run, rollouts=4, positives=2, bisect=True)), ToySampler(), tmp_path / "r")
    left_out = 0
    for question in read_rolled(tmp_path / "r"):
        for response in question.responses:
            known = [value is not None for value in question.values(response, 1)]
            assert all(known) or not response.right
            left_out += known.count(False)
    assert left_out > 30


def test_steps_without_progress_in_right_responses(run: Path, tmp_path: Path) -> None:
    """An ``x`` on the way to the right answer lowers Q; it is found, and harmful ones surely so."""
    roll(prepare(RolloutOptions(run, negatives=0, positives=8, rollouts=60)), ToySampler(), tmp_path / "r")
    rows = [json.loads(line) for line in (tmp_path / "r" / "steps.jsonl").read_text().splitlines()]
    assert rows and all(row["right"] and row["pit"] is None for row in rows)
    seen = {"o": [0, 0], "x": [0, 0]}
    for row in rows:
        assert "".join(row["completion"][s["start"] : s["end"]] for s in row["steps"]) == row["completion"]
        for step in row["steps"][:-1]:
            letter = row["completion"][step["start"] : step["end"]].strip()
            seen[letter][0] += step["spurious"]
            seen[letter][1] += 1
    assert seen["x"][1] >= 5 and seen["x"][0] / seen["x"][1] > 0.9
    assert seen["o"][0] / seen["o"][1] < 0.3


def test_another_configuration_is_refused(run: Path, tmp_path: Path) -> None:
    options = RolloutOptions(run, negatives=1, rollouts=2)
    roll(prepare(options), ToySampler(), tmp_path / "r")
    with pytest.raises(UserError, match="rollouts 2 → 3"):
        roll(prepare(replace(options, rollouts=3)), ToySampler(), tmp_path / "r")
    roll(prepare(replace(options, limit=2)), ToySampler(), tmp_path / "r")  # how many questions is no content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rollouts": 0}, "rollouts is 0"),
        ({"negatives": 0}, "no responses"),
        ({"limit": 0}, "limit is 0"),
        ({"temperature": 0.0}, "all the same"),
        ({"max_tokens": 4}, "have up to 256"),
        ({"model": "no/such/model"}, "no/such/model"),
        ({"run": "/nowhere"}, "name the folder of a run"),
    ],
)
def test_what_cannot_be_used_is_said(
    run: Path, change: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=words):
        prepare(RolloutOptions(**({"run": run} | change)))


def test_a_run_of_another_model_is_not_taken_for_this_one(tmp_path: Path) -> None:
    from tests.tiny_model import write_tiny_llama

    path = make_run(tmp_path, questions=1, k=4)
    write_tiny_llama(tmp_path / "model", seed=1)
    manifest = json.loads((path / "run.json").read_text())
    manifest["notes"] = {"model": str(tmp_path / "model")}
    (path / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="was sampled from another"):
        prepare(RolloutOptions(path))
    job = prepare(RolloutOptions(path, model=str(tmp_path / "model")))
    assert not job.own_model and job.sampled(job.source.read("q0")) is None


def test_a_template_of_ones_own_may_be_a_chats(tmp_path: Path) -> None:
    """A run says whether its template goes through the model's chat template; one by a built-in's name need not."""
    path = hand_made(tmp_path / "run")
    manifest = json.loads((path / "run.json").read_text())
    for template, said, chat in (("mine", {"chat": True}, True), ("mine", {}, False), ("chat", {}, True)):
        manifest["config"]["prompt"] = {"template": template, "text": "Say: {question}", "shot": "", "stop": []} | said
        (path / "run.json").write_text(json.dumps(manifest))
        assert Source(path).template.chat is chat


def test_a_prompt_that_does_not_tell_its_question_needs_the_file(run: Path, tmp_path: Path) -> None:
    job = prepare(RolloutOptions(run))
    stored = replace(job.source.read("q0"), prompt="Something else")
    with pytest.raises(UserError, match=r"question 'q0'.*--questions"):
        job.source.prompt(stored, job.tokenizer)
    file = tmp_path / "q.jsonl"
    file.write_text('{"id": "q0", "question": "Where to, 0?", "answer": "1"}\n')
    given = prepare(RolloutOptions(run, questions=str(file)))
    assert given.source.prompt(given.source.read("q0"), given.tokenizer) == job.source.prompt(
        job.source.read("q0"), job.tokenizer
    )
    with pytest.raises(UserError, match="question 'q0'"):
        given.source.prompt(stored, given.tokenizer)
