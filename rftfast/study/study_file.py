"""Reading a study file: YAML in, steps out, with loops unrolled and placeholders filled in.

::

    title: …                      # of the tables and the report
    summary: …                    # a sentence or two for the report (optional)
    baseline: SFT                 # the row that others are compared with (optional)
    parameters: {model: null}     # set with --set model=…; null must be set
    steps:
      sft-<seed>:                 # a step for each seed
        for: {seed: [0, 1, 2]}
        kind: sft
        model: <model>
        data: $world-<seed>/train.jsonl
        epochs: 3

``<name>`` stands for a parameter or a loop's value; where it is all there is, the value keeps its type. ``$step`` is
what a step makes, ``$step/file`` a file in its folder, and ``$sft-*`` in a list all steps of that pattern. A loop over several
names runs through all combinations; a value that is itself a mapping gives several names at once, a list among the values stands
for its own (``size: [<sizes>, <more_sizes>]``), and an empty list makes no step.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from rftfast.errors import UserError

_PLACEHOLDER = re.compile(r"<([a-z][a-z0-9_]*)>")
_STEP_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_KEYS = ("title", "summary", "out", "jobs", "baseline", "parameters", "steps")
_OF_STEPS = ("for", "kind")


@dataclass(frozen=True)
class StepSpec:
    """One step as the file has it, loops and placeholders resolved; references are still text."""

    name: str
    kind: str
    options: dict[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    """The loop's values this step is made with."""


@dataclass(frozen=True)
class StudySpec:
    """A study file, read. ``source`` is what messages call it."""

    source: str
    title: str
    summary: str
    out: str
    jobs: int
    baseline: str | None
    parameters: dict[str, Any]
    steps: tuple[StepSpec, ...]


def shipped() -> dict[str, str]:
    """Name -> title of the studies that come with the package."""
    found = {}
    for item in sorted(resources.files("rftfast.study").joinpath("studies").iterdir(), key=lambda i: i.name):
        if item.name.endswith(".yaml"):
            found[item.name.removesuffix(".yaml")] = str(yaml.safe_load(item.read_text(encoding="utf-8"))["title"])
    return found


def read_study(name: str, settings: Mapping[str, str] | None = None) -> StudySpec:
    """The study in the file ``name``, or the one of that name that ships. ``settings`` replace parameters (YAML values).

    Raises:
        UserError: no such file, broken YAML (with line and column), unknown or missing keys, placeholders without a value.
    """
    path = Path(name)
    if path.is_file() or name.endswith((".yaml", ".yml")) or "/" in name:
        source = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); name a study file or one of {_named()}") from None
    else:
        if name not in shipped():
            raise UserError(f"study {name!r}: no such file, and none of that name ships ({_named()})")
        source = f"study {name}"
        text = (resources.files("rftfast.study") / "studies" / f"{name}.yaml").read_text(encoding="utf-8")
    return _study(_parse(text, source), source, name, dict(settings or {}))


def _named() -> str:
    return ", ".join(shipped())


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML itself would take the last of; reads ``2e-5`` as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+"), list("-+0123456789")
)


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{source}{where}: {problem}; mend the file") from None
    if not isinstance(value, dict):
        raise UserError(f"{source}: holds no mapping; write title: and steps:")
    return value


def _study(value: dict[str, Any], source: str, name: str, settings: dict[str, str]) -> StudySpec:
    _known(value, _KEYS, source)
    for key in ("title", "steps"):
        if key not in value:
            raise UserError(f"{source}: {key!r} is missing; add it")
    steps = _mapping(value["steps"], f"{source}: steps")
    if not steps:
        raise UserError(f"{source}: steps is empty; add one")
    parameters = _parameters(_mapping(value.get("parameters") or {}, f"{source}: parameters"), settings, source)
    found: dict[str, StepSpec] = {}
    for label, body in steps.items():
        for step in _unrolled(str(label), body, parameters, source):
            if step.name in found:
                raise UserError(f"{source}: two steps are called {step.name}; give each its own name")
            found[step.name] = step
    jobs = value.get("jobs", 1)
    if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
        raise UserError(f"{source}: jobs is {jobs!r}; it is how many steps run at the same time, 1 or more")
    texts = {key: value.get(key) for key in ("title", "summary", "out", "baseline")}
    for key, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise UserError(f"{source}: {key} is {text!r}; write it as text")
    return StudySpec(
        source,
        str(value["title"]),
        " ".join(str(texts["summary"] or "").split()),
        str(texts["out"] or f"runs/{Path(name).stem}"),
        jobs,
        value.get("baseline"),
        parameters,
        tuple(found.values()),
    )


def _parameters(given: dict[str, Any], settings: dict[str, str], source: str) -> dict[str, Any]:
    parameters = dict(given)
    for key, text in settings.items():
        if key not in parameters:
            known = f"choose among {', '.join(parameters)}" if parameters else "it has none"
            raise UserError(f"{source}: no parameter {key!r}; {known}")
        try:
            parameters[key] = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError:
            raise UserError(f"--set {key}={text}: is no YAML value; put it in quotes") from None
    missing = [key for key, value in parameters.items() if value is None]
    if missing:
        raise UserError(f"{source}: needs {', '.join(missing)}: give --set {missing[0]}=…")
    return parameters


def _unrolled(label: str, body: Any, parameters: dict[str, Any], source: str) -> Iterator[StepSpec]:
    """The steps that one entry of the file stands for."""
    where = f"{source}: step {label}"
    given = _mapping(body, where)
    kind = given.get("kind")
    if not isinstance(kind, str):
        raise UserError(f"{where}: 'kind' is missing; say what the step does")
    for values in _loop(given.get("for") or {}, parameters, where):
        known = parameters | values
        name = _filled(label, known, where)
        if not isinstance(name, str) or not _STEP_NAME.fullmatch(name):
            raise UserError(f"{where}: {name!r} is no name for a folder; use letters, digits, '-', '_' and '.'")
        options = {key: _filled(item, known, where) for key, item in given.items() if key not in _OF_STEPS}
        yield StepSpec(name, kind, options, values)


def _loop(given: Any, parameters: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    columns = []
    for name, values in _mapping(given, f"{where}: for").items():
        values = _filled(values, parameters, where)
        if not isinstance(values, list):
            raise UserError(f"{where}: for {name}: {values!r} is no list of values; write [1, 2]")
        flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
        columns.append([value if isinstance(value, dict) else {str(name): value} for value in flat])
    for row in itertools.product(*columns):
        yield {key: value for part in row for key, value in part.items()}


def _filled(value: Any, known: Mapping[str, Any], where: str) -> Any:
    """``value`` with every ``<name>`` replaced, in texts, lists and mappings."""
    if isinstance(value, list):
        return [_filled(item, known, where) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, known, where) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    for name in _PLACEHOLDER.findall(value):
        if name not in known:
            raise UserError(f"{where}: <{name}> is neither a parameter nor a loop's value; add it, or mend the name")
    whole = _PLACEHOLDER.fullmatch(value)
    return known[whole[1]] if whole else _PLACEHOLDER.sub(lambda match: str(known[match[1]]), value)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {str(value)[:40]!r} is no mapping; write name: value")
    return value


def _known(value: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    unknown = [str(key) for key in value if key not in keys]
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; keys are {', '.join(keys)}")
