"""What a step can do: which inputs and options each kind has, which command runs it, and what it makes.

Every step is one command of its own, run in its own process: memory is given back, and what failed can be run alone. The
options of a kind are those of the command behind it, read off that command, so that they cannot differ.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.models import ParameterInfo

from rftfast.errors import UserError


@dataclass(frozen=True)
class Option:
    """Of a command: bool, int, float or str, and what it is where nothing is given."""

    type: Any
    default: Any


Options = dict[str, Option]

# Decide neither what is made nor how good it is; they may change while a study goes on.
FREE = frozenset(
    ("threads", "kv_memory", "checkpoint_every", "keep", "tensorboard", "wandb", "validation", "validate_every")
)


@dataclass(frozen=True)
class Kind:
    """One kind of step.

    ``inputs``: option name -> whether several may be given; those in ``optional`` may be left out. ``labels``: keys that are for the tables alone. ``product``:
    what ``$step`` stands for, relative to the step's folder. ``module`` and ``words`` begin the command;
    ``positional`` names the inputs that have no flag, ``out`` is the flag for what is made and ``target`` its value,
    relative to the step's folder.
    """

    name: str
    about: str
    module: str
    words: tuple[str, ...]
    inputs: dict[str, bool]
    options: Callable[[], Options]
    product: str
    out: str = "--out"
    target: str = "."
    positional: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()
    """More flags with a file in the step's folder as their value."""
    labels: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def command(self, inputs: Mapping[str, Sequence[str]], options: Mapping[str, Any], folder: Path) -> list[str]:
        """The command that makes the step in ``folder``. ``processes`` (training) goes to torchrun."""
        options = dict(options)
        processes = options.pop("processes", 1)
        python = [sys.executable, "-m"]
        if processes > 1:
            python += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        flags = [self.out, str(folder / self.target)]
        for flag, file in self.extra:
            flags += [flag, str(folder / file)]
        for name, values in inputs.items():
            if name not in self.positional:
                for value in values:
                    flags += [_flag(name), value]
        known = self.options()
        for name, value in options.items():
            if value != known[name].default:
                flags += _flags(name, value)
        first = [value for name in self.positional for value in inputs.get(name, ())]
        return [*python, self.module, *self.words, *first, *flags]


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _flags(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [_flag(name) if value else _flag(f"no_{name}")]
    return [] if value is None else [_flag(name), str(value)]


def _of_command(module: str, function: str, without: str) -> Callable[[], Options]:
    """The options of a typer command but for those in ``without``."""

    def read() -> Options:
        target = getattr(importlib.import_module(module), function)
        hints = typing.get_type_hints(target)
        return {
            name: Option(_plain(hints[name]), _default(parameter.default))
            for name, parameter in inspect.signature(target).parameters.items()
            if name not in without.split()
        }

    return read


def _default(given: Any) -> Any:
    """``x: int = typer.Option(3)`` and ``x: Annotated[int, typer.Option()] = 3`` both say 3."""
    return given.default if isinstance(given, ParameterInfo) else given


def _of_training(module: str, name: str, without: str = "") -> Callable[[], Options]:
    """The fields of a training configuration but for those in ``without``."""

    def read() -> Options:
        config = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(config)
        left_out = ("model", "data", "out", "dry_run", *without.split())
        found = {
            f.name: Option(_plain(hints[f.name]), f.default)
            for f in dataclasses.fields(config)
            if f.name not in left_out
        }
        return found | {"processes": Option(int, 1)}

    return read


def _plain(kind: Any) -> Any:
    """The type of an option: of ``X | None`` it is X, of choices and paths text."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    return kind if kind in (bool, int, float) else str


_CLI, _STEPS = "rftfast.cli.main", "rftfast.study.steps"
_LABELS = ("row", "group", "series", "at", "pair", "note")
_SUPERVISED = _of_training("rftfast.train.config", "TrainConfig")

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "world",
            "problems of the made-up world: train.jsonl, test.jsonl",
            _STEPS,
            ("world",),
            {},
            _of_command("rftfast.study.steps", "world", "out"),
            ".",
        ),
        Kind(
            "blank",
            "a small model with random weights, and text of the made-up world: text.jsonl",
            _STEPS,
            ("blank",),
            {},
            _of_command("rftfast.study.steps", "blank", "out"),
            "model",
        ),
        Kind(
            "pretrain",
            "training from random weights",
            "rftfast.train.sft",
            (),
            {"model": False, "data": False},
            _SUPERVISED,
            "out/model",
            target="out",
        ),
        Kind(
            "questions",
            "a part of a file of questions",
            _STEPS,
            ("questions",),
            {"source": False},
            _of_command("rftfast.study.steps", "questions", "source out"),
            "questions.jsonl",
            target="questions.jsonl",
            positional=("source",),
        ),
        Kind(
            "sft",
            "fine-tuning on gold solutions",
            "rftfast.train.sft",
            (),
            {"model": False, "data": False},
            _SUPERVISED,
            "out/model",
            target="out",
        ),
        Kind(
            "rft",
            "fine-tuning on gold solutions and kept paths, or on the steps that helped",
            "rftfast.train.rft",
            (),
            {"model": False, "data": False},
            _of_training("rftfast.train.config", "RftConfig"),
            "out/model",
            target="out",
        ),
        Kind(
            "sample",
            "k paths a question, verified",
            _CLI,
            ("sample",),
            {"model": False, "questions": False},
            _of_command("rftfast.cli.sample", "sample", "model questions out dry_run"),
            "run",
            target="run",
        ),
        Kind(
            "select",
            "one path for each equation list, of the first samples or of several runs",
            _STEPS,
            ("select",),
            {"runs": True},
            _of_command("rftfast.study.steps", "select", "runs out"),
            "rft.jsonl",
            positional=("runs",),
        ),
        Kind(
            "rollout",
            "values of the steps of a run's responses",
            _CLI,
            ("rollout",),
            {"run": False},
            _of_command("rftfast.cli.rollout", "rollout", "run model questions out dry_run"),
            "rollouts",
            target="rollouts",
            positional=("run",),
            labels=("row", "group", "pair"),
        ),
        Kind(
            "pairs",
            "preference pairs of a run, by its answers or by its rollouts",
            _CLI,
            ("pairs",),
            {"run": False, "rollouts": False},
            _of_command("rftfast.cli.pairs", "pairs", "run rollouts out"),
            "pairs.jsonl",
            target="pairs.jsonl",
            positional=("run",),
            optional=("rollouts",),
        ),
        Kind(
            "dpo",
            "training on preference pairs",
            "rftfast.train.dpo",
            (),
            {"model": False, "data": False},
            _of_training("rftfast.train.dpo_config", "PreferenceConfig", "reference"),
            "out/model",
            target="out",
            extra=(("--reference", "reference"),),
        ),
        Kind(
            "eval",
            "accuracy on test questions",
            _CLI,
            ("eval",),
            {"model": False, "questions": False},
            _of_command("rftfast.cli.eval", "evaluate", "model against questions out json_file"),
            "scores.json",
            target="samples",
            positional=("model",),
            extra=(("--json", "scores.json"),),
            labels=_LABELS,
        ),
    )
}


def check_options(kind: Kind, options: Mapping[str, Any], where: str) -> None:
    """Raises UserError for an option the kind has not, a value of the wrong type, or an input that is missing."""
    known = kind.options()
    for name, value in options.items():
        if name in kind.inputs or name in kind.labels:
            continue
        if name not in known:
            choose = ", ".join([*kind.inputs, *known, *kind.labels])
            raise UserError(f"{where}: unknown key {name!r}; of {kind.name} there are {choose}")
        if value is not None and not _is(value, known[name].type):
            wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[known[name].type]
            raise UserError(f"{where}: {name} is {value!r}; {wanted} is wanted")
    for name in kind.inputs:
        if not options.get(name) and name not in kind.optional:
            raise UserError(f"{where}: {name!r} is missing; name a step ($name) or what it is otherwise")


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float))
    return isinstance(value, (str, int, float) if kind is str else kind)
