from __future__ import annotations

import json
from pathlib import Path

import pytest

from rftfast.errors import UserError
from rftfast.study.graph import dependents
from rftfast.study.kinds import KINDS
from tests.made_runs import make_run
from tests.study.made_studies import WORLDS, graph_of

MODELS = """
    title: Models
    parameters: {epochs: 3, threads: 1}
    steps:
      evaluation: {kind: eval, model: $tuned, questions: $world/test.jsonl, k: 0, row: a}
      tuned: {kind: sft, model: base, data: $world/train.jsonl, epochs: <epochs>, threads: <threads>, prompt: plain}
      other: {kind: sft, model: base, data: $world/train.jsonl, prompt: plain}
      runs-a: {kind: sample, model: $tuned, questions: $world/train.jsonl}
      runs-b: {kind: sample, model: $other, questions: $world/train.jsonl}
      union: {kind: select, runs: [$runs-*], first: 3}
      world: {kind: world, train: 8}
"""


def test_order_and_commands(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, MODELS)
    assert list(graph) == ["world", "tuned", "evaluation", "other", "runs-a", "runs-b", "union"]
    assert graph["union"].after == ("runs-a", "runs-b")
    command = graph["tuned"].command(threads=4)
    assert command[1:3] == ["-m", "rftfast.train.sft"]
    given = dict(zip(command[3::2], command[4::2], strict=True))
    assert given == {
        "--out": str(graph["tuned"].folder / "out"),
        "--model": "base",
        "--data": str(graph["world"].folder / "train.jsonl"),
        "--threads": "1",  # its own; and what is the default anyway (3 epochs) is not said
        "--prompt": "plain",
    }
    assert "4" in graph["other"].command(threads=4)
    evaluation = graph["evaluation"].command()
    assert evaluation[3:5] == ["eval", str(graph["tuned"].folder / "out/model")]
    assert "--row" not in evaluation
    assert [word for word in graph["union"].command() if "runs-" in word] == [
        str(graph["runs-a"].folder / "run"),
        str(graph["runs-b"].folder / "run"),
    ]


PREFERENCES = """
    title: Preferences
    steps:
      samples: {kind: sample, model: base, questions: QUESTIONS}
      values: {kind: rollout, run: $samples, negatives: 8, bisect: true, row: a}
      farthest: {kind: pairs, run: $samples, definition: edit-distance}
      pits: {kind: pairs, run: $samples, rollouts: $values}
      dpo: {kind: dpo, model: base, data: $pits, beta: 0.2, batch_size: 8}
      steps: {kind: rft, model: base, data: $values, step_advantages: true}
"""


def test_rollouts_pairs_and_preferences(tmp_path: Path) -> None:
    questions = tmp_path / "train.jsonl"
    questions.write_text('{"question": "q", "answer": "#### 1"}\n')
    graph = graph_of(tmp_path, PREFERENCES.replace("QUESTIONS", str(questions)))
    command = {name: step.command()[2:] for name, step in graph.items()}
    at = {name: str(step.folder) for name, step in graph.items()}
    run = f"{at['samples']}/run"
    values = f"{at['values']}/rollouts"
    assert command["values"] == ["rftfast.cli.main", "rollout", run, "--out", values, "--bisect"]  # 8 is the default
    assert command["farthest"][1:] == [
        *("pairs", run, "--out", f"{at['farthest']}/pairs.jsonl", "--definition", "edit-distance")
    ]
    assert command["pits"][1:] == ["pairs", run, "--out", f"{at['pits']}/pairs.jsonl", "--rollouts", values]
    assert command["dpo"] == [
        *("rftfast.train.dpo", "--out", f"{at['dpo']}/out", "--reference", f"{at['dpo']}/reference"),
        *("--model", "base", "--data", f"{at['pits']}/pairs.jsonl", "--beta", "0.2", "--batch-size", "8"),
    ]
    assert command["steps"][-1] == "--step-advantages"
    assert graph["pits"].after == ("samples", "values")
    with pytest.raises(UserError, match="step pits: 'run' is missing"):
        graph_of(
            tmp_path, PREFERENCES.replace("QUESTIONS", str(questions)).replace("run: $samples, rollouts", "rollouts")
        )


def test_several_processes_go_through_torchrun(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, MODELS.replace("threads: <threads>", "processes: 2"))
    command = graph["tuned"].command()
    assert command[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    assert "--processes" not in command


def test_keys_follow_what_goes_in(tmp_path: Path) -> None:
    before = graph_of(tmp_path, MODELS)
    again = graph_of(tmp_path, MODELS)
    assert [s.key for s in before.values()] == [s.key for s in again.values()]
    changed = graph_of(tmp_path, MODELS, epochs="4")
    assert {n for n in before if before[n].key != changed[n].key} == {"tuned", "evaluation", "runs-a", "union"}
    free = graph_of(tmp_path, MODELS, threads="2")
    assert all(before[n].key == free[n].key for n in before)
    labelled = graph_of(tmp_path, MODELS.replace("row: a", "row: b"))
    assert all(before[n].key == labelled[n].key for n in before)
    assert dependents(before, ["tuned"]) == {"evaluation", "runs-a", "union"}


def test_keys_follow_the_contents_of_files(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    text = f"title: t\nsteps: {{a: {{kind: questions, source: {file}}}, b: {{kind: questions, source: $a}}}}\n"
    keys = []
    for answer in ("1", "2", "1"):
        file.write_text(json.dumps({"question": "q", "answer": f"#### {answer}"}) + "\n")
        keys.append([step.key for step in graph_of(tmp_path, text).values()])
    assert keys[0] == keys[2]
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] != keys[1][1]


def test_keys_follow_a_run_s_samples_and_not_what_is_made_of_them(tmp_path: Path) -> None:
    """A report, an export or rollouts written into a run's folder leave the run what it is."""
    run = make_run(tmp_path / "run", {"q1": ["#### 3"]})
    text = f"title: t\nsteps: {{a: {{kind: select, runs: {run}}}}}\n"
    before = graph_of(tmp_path, text)["a"].key
    for name in ("report.html", "messages.jsonl", "rollouts/run.json", "rollouts/parts/part-00000.jsonl", "logs/x.txt"):
        (run / name).parent.mkdir(exist_ok=True, parents=True)
        (run / name).write_text("{}")
    with (run / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    assert graph_of(tmp_path, text)["a"].key == before
    part = run / "samples" / "part-00000.jsonl"
    part.write_text(part.read_text().replace("#### 3", "#### 4"))
    assert graph_of(tmp_path, text)["a"].key != before
    model = tmp_path / "model"
    model.mkdir()
    text = f"title: t\nsteps: {{a: {{kind: sample, model: {model}, questions: q}}}}\n"
    keys = []
    for content in ("1", "2", "1"):
        (model / "model.safetensors").write_text(content)
        (model / ".lock").write_text(str(len(keys)))
        keys.append(graph_of(tmp_path, text)["a"].key)
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize("option", ["prompt", "exemplars"])
def test_keys_follow_the_contents_of_templates_and_examples(tmp_path: Path, option: str) -> None:
    file = tmp_path / "given.txt"
    text = f"title: t\nsteps: {{a: {{kind: sample, model: m, questions: q, {option}: {file}}}}}\n"
    keys = []
    for words in ("Q: {question}", "Ask: {question}", "Q: {question}"):
        file.write_text(words)
        keys.append(graph_of(tmp_path, text)["a"].key)
    assert keys[0] == keys[2] != keys[1]
    file.unlink()
    with pytest.raises(UserError, match=f"step a: {option}: .*given.txt"):
        graph_of(tmp_path, text)


def step(body: str) -> str:
    return f"title: t\nsteps:\n  w: {{kind: world}}\n  a: {{{body}}}\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("kind: wrld", "unknown kind 'wrld'; choose world"),
        ("kind: world, trian: 3", "unknown key 'trian'; of world there are train, test, seed"),
        ("kind: world, train: three", "train is 'three'; a whole number is wanted"),
        ("kind: world, train: 3.5", "train is 3.5; a whole number is wanted"),
        ("kind: world, train: true", "train is True; a whole number is wanted"),
        ("kind: sample, model: m, questions: $w/train.jsonl, early_stop: 1", "true or false is wanted"),
        ("kind: world, row: x", "unknown key 'row'"),
        ("kind: questions", "'source' is missing"),
        ("kind: questions, source: $v", "$v means no step; there are w, a"),
        ("kind: questions, source: [$w, $w]", "source takes one, 2 are given"),
        ("kind: questions, source: 3", "source is 3; name a step"),
        ("kind: questions, source: $a", "in a circle: a → a"),
        ("kind: questions, source: none.jsonl", "none.jsonl is not there"),
        ("kind: sft, model: ./none, data: $w/train.jsonl", "./none is not there"),
        ("kind: sft, model: m, data: none", "none is not there"),
        ("kind: select, runs: [$w, none]", "none is not there"),
    ],
)
def test_bad_steps_are_refused(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        graph_of(tmp_path, step(body))
    assert words in str(caught.value)
    assert "study.yaml: step a" in str(caught.value) or "circle" in words
    assert "\n" not in str(caught.value)


def test_a_pattern_that_means_several_is_for_lists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="source takes one, world-0, world-1 are meant"):
        graph_of(tmp_path, WORLDS.replace("$world-<seed>/", "$world-*/"))


def test_every_kind_knows_its_commands_options() -> None:
    assert KINDS["sample"].options()["k"].default == 100
    assert KINDS["sample"].options()["early_stop"].type is bool
    assert KINDS["rft"].options()["lr"].type is float
    for kind in KINDS.values():
        known = kind.options()
        assert not {"out", "dry_run", *kind.inputs, *kind.labels} & known.keys(), kind.name
