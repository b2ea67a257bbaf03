from __future__ import annotations

from pathlib import Path

import pytest

from rftfast.errors import UserError
from rftfast.study.study_file import read_study, shipped
from tests.study.made_studies import WORLDS, read


def test_loops_and_placeholders(tmp_path: Path) -> None:
    study = read(
        tmp_path,
        """
        title: Loops
        parameters: {sizes: [{size: small, rows: 3}, {size: large, rows: 5}], seeds: [0, 1]}
        steps:
          world-<size>-<seed>:
            for: {seed: <seeds>, of: <sizes>}
            kind: world
            train: <rows>
            seed: <seed>
        """,
    )
    assert [step.name for step in study.steps] == ["world-small-0", "world-large-0", "world-small-1", "world-large-1"]
    assert study.steps[1].options == {"train": 5, "seed": 0}  # numbers stay numbers
    assert study.steps[1].values == {"seed": 0, "size": "large", "rows": 5}


def test_parameters_are_replaced(tmp_path: Path) -> None:
    study = read(tmp_path, WORLDS, seeds="[7]")
    assert [step.name for step in study.steps] == ["world-7", "part-7"]
    assert study.out == "runs/study"


def test_numbers_with_an_exponent(tmp_path: Path) -> None:
    """YAML 1.1 takes 2e-5 for text; nobody means that."""
    text = "title: t\nparameters: {lr: 1e-3, name: 2e}\nsteps:\n  w: {kind: sft, lr: <lr>, beta2: 1E5, model: <name>}\n"
    assert read(tmp_path, text, lr="-2e-5").steps[0].options == {"lr": -2e-5, "beta2": 1e5, "model": "2e"}


def test_an_empty_list_makes_no_step(tmp_path: Path) -> None:
    text = "title: t\nparameters: {seeds: []}\nsteps:\n  w: {kind: world}\n  x<s>: {kind: world, for: {s: <seeds>}}\n"
    assert [step.name for step in read(tmp_path, text).steps] == ["w"]


def test_a_list_within_a_loop_stands_for_its_values(tmp_path: Path) -> None:
    text = "title: t\nparameters: {few: [1, 2], more: [4]}\nsteps:\n  w-<n>: {kind: world, for: {n: [<few>, <more>, 8]}, seed: <n>}\n"
    assert [(step.name, step.options["seed"]) for step in read(tmp_path, text).steps] == [
        ("w-1", 1), ("w-2", 2), ("w-4", 4), ("w-8", 8)]  # fmt: skip


STEP = "title: t\nsteps:\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n", "holds no mapping"),
        ("title: t\n", "'steps' is missing"),
        ("title: t\nsteps: {}\n", "steps is empty"),
        ("title: t\ncolour: red\nsteps: {a: {kind: world}}\n", "unknown key 'colour'"),
        ("title: t\nsteps:\n  a: [}\n", "line 3, column"),
        ("title: t\ntitle: u\nsteps: {a: {kind: world}}\n", "'title' stands twice"),
        (STEP + "  a: {train: 3}\n", "step a: 'kind' is missing"),
        (STEP + "  a: 3\n", "step a: '3' is no mapping"),
        (STEP + "  a: {kind: world, seed: <seed>}\n", "<seed> is neither a parameter nor a loop's value"),
        (STEP + "  a: {kind: world, for: {seed: [0, 1]}}\n", "two steps are called a"),
        (STEP + "  a: {kind: world, for: {seed: 3}}\n", "for seed: 3 is no list"),
        (STEP + "  a/b: {kind: world}\n", "is no name for a folder"),
        ("title: t\njobs: 0\nsteps: {a: {kind: world}}\n", "jobs is 0"),
        ("title: [t]\nsteps: {a: {kind: world}}\n", "title is ['t']"),
        ("title: t\nparameters: {train: null}\nsteps: {a: {kind: world}}\n", "give --set train=…"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert "study.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file, and none of that name ships \(.*paper.*\)"):
        read_study("tinny")
    with pytest.raises(UserError, match="cannot be read"):
        read_study(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="no parameter 'seed'; choose among seeds"):
        read(tmp_path, WORLDS, seed="3")


def test_what_ships_can_be_read() -> None:
    assert {"paper", "data-fraction", "tiny", "gsm8k-smollm2", "negatives"} <= shipped().keys()
    assert all(shipped().values())
