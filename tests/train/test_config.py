"""Options: defaults, what is refused, and the command line made of the fields."""

import dataclasses

import pytest

from rftfast.errors import UserError
from rftfast.train.config import TrainConfig
from rftfast.train.dpo_config import PreferenceConfig
from rftfast.train.options import docstrings, parse

NEEDED = ["--model", "m", "--data", "d", "--out", "o"]


def parsed(*arguments: str) -> TrainConfig:
    return parse(TrainConfig, [*NEEDED, *arguments], program="train/rft.py", about="")


def test_defaults_are_the_papers():
    c = parsed()
    assert (c.epochs, c.batch_size, c.lr, c.warmup, c.schedule) == (3, 128, 2e-5, 0.03, "cosine")
    assert (c.weight_decay, c.max_length) == (0, 512)


def test_every_field_has_its_help(capsys):
    texts = docstrings(TrainConfig)
    assert list(texts) == [field.name for field in dataclasses.fields(TrainConfig)]
    with pytest.raises(SystemExit) as ended:
        parsed("--help")
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, text in texts.items():
        assert text in shown, name
    assert "Peak learning rate. [2e-05]" in shown
    assert "--no-tensorboard" in shown and "--recompute" in shown


def test_options_become_fields():
    c = parsed(
        "--lr", "1e-4", "--epochs", "1", "--schedule", "linear", "--no-tensorboard", "--recompute", "--limit", "7"
    )
    assert c == TrainConfig(
        "m", "d", "o", lr=1e-4, epochs=1, schedule="linear", tensorboard=False, recompute=True, limit=7
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs", "0"], "--epochs is 0; it must be 1 or more"),
        (["--max-steps", "0"], "--max-steps is 0"),
        (["--lr", "0"], "--lr is 0.0; it must lie between 0 and 1"),
        (["--lr", "nan"], "--lr is nan"),
        (["--warmup", "1"], "--warmup is 1.0"),
        (["--clip", "-1"], "--clip is -1.0"),
        (["--beta2", "1"], "--beta2 is 1.0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--row-tokens", "100"], "--row-tokens 100 cannot hold an example of --max-length 512"),
        (["--schedule", "wave"], "choose from"),
        (["--epochs", "x"], "--epochs"),
        (["--shedule", "linear"], "unrecognized arguments: --shedule"),
        (["--lr"], "--lr"),
        (["--out", ""], "--out is empty"),
    ],
)
def test_refusals(arguments, expected):
    with pytest.raises(UserError) as caught:
        parsed(*arguments)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_missing_options_are_named():
    with pytest.raises(UserError, match="--data, --out"):
        parse(TrainConfig, ["--model", "m"], program="x", about="")


def test_identity_is_what_is_learned_not_where():
    c = parsed()
    for change in (
        {"lr": 1e-3},
        {"seed": 1},
        {"batch_size": 64},
        {"share_prompts": 4},
        {"max_steps": 3},
        {"clip": 0.0},
    ):
        assert dataclasses.replace(c, **change).identity() != c.identity(), change
    for change in ({"row_tokens": 999}, {"shard": "node"}, {"keep": 9}, {"data": "elsewhere"}, {"dtype": "float32"}):
        assert dataclasses.replace(c, **change).identity() == c.identity(), change


def test_a_home_folder_that_no_shell_has_filled_in(monkeypatch):
    """``--data=~/run`` was read, but its template was looked for in a folder called ``~``."""
    monkeypatch.setenv("HOME", "/home/me")
    c = TrainConfig("~/model", "~/run", "~/out", prompt="gsm8k")
    assert (c.model, c.data, c.out, c.prompt) == ("/home/me/model", "/home/me/run", "/home/me/out", "gsm8k")
    assert TrainConfig("m", "d", "o", validation="~/v").validation == "/home/me/v"
    assert PreferenceConfig("m", "d", "o", reference="~/r").reference == "/home/me/r"
