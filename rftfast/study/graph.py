"""The steps of a study in order, each with the hash of what goes into it.

A step's key is a hash of its kind, its options, the keys of the steps it builds on and the contents of the files it reads
from outside. Its folder is named by step and key, so a changed option makes a new folder for that step and for all that follow
from it, and going back finds the old ones as they were.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rftfast import __version__
from rftfast.data.manifest import RUN_FILE
from rftfast.data.prompts import TEMPLATES, load_template
from rftfast.errors import UserError
from rftfast.study.kinds import FREE, KINDS, Kind, check_options
from rftfast.study.study_file import StepSpec, StudySpec

# Options that may name a file, whose contents decide what a step makes.
_FILES = ("prompt", "exemplars")


@dataclass(frozen=True)
class Step:
    """A step that can be run.

    ``after``: names of the steps it builds on. ``inputs``: for each input of its kind the paths and names given to the
    command. ``origins``: of the inputs that are steps, their names.
    """

    name: str
    kind: Kind
    options: dict[str, Any]
    labels: dict[str, Any]
    values: dict[str, Any]
    inputs: dict[str, tuple[str, ...]]
    origins: dict[str, tuple[str, ...]]
    after: tuple[str, ...]
    key: str
    folder: Path

    def command(self, threads: int | None = None) -> list[str]:
        """What runs the step; ``threads`` where the step itself does not say how many."""
        options = dict(self.options)
        if threads is not None and "threads" in self.kind.options():
            options.setdefault("threads", threads)
        return self.kind.command(self.inputs, options, self.folder)


def build_graph(study: StudySpec, out: Path) -> dict[str, Step]:
    """Name -> step, each behind those it builds on, otherwise in the order of the file. Reads the outside files.

    Raises:
        UserError: an unknown kind, option or step, a circle, a file that is not there.
    """
    specs = {spec.name: spec for spec in study.steps}
    for spec in study.steps:
        if spec.kind not in KINDS:
            raise UserError(f"{study.source}: step {spec.name}: unknown kind {spec.kind!r}; choose {', '.join(KINDS)}")
        check_options(KINDS[spec.kind], spec.options, f"{study.source}: step {spec.name}")
    made: dict[str, Step] = {}
    for name in _ordered(specs, study.source):
        made[name] = _step(specs[name], made, specs, study, out)
    return made


def _ordered(specs: dict[str, StepSpec], source: str) -> list[str]:
    order: dict[str, None] = {}
    open_steps: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        if name in open_steps:
            circle = " → ".join([*open_steps[open_steps.index(name) :], name])
            raise UserError(f"{source}: steps build on one another in a circle: {circle}")
        open_steps.append(name)
        for other in _references(specs[name], specs, source):
            visit(other)
        open_steps.pop()
        order[name] = None

    for name in specs:
        visit(name)
    return list(order)


def _references(spec: StepSpec, specs: dict[str, StepSpec], source: str) -> list[str]:
    return [
        name
        for key in KINDS[spec.kind].inputs
        for value in _given(spec, key, source)
        if value.startswith("$")
        for name in _matching(value, spec, specs, source)
    ]


def _given(spec: StepSpec, key: str, source: str) -> list[str]:
    value: Any = spec.options.get(key)
    if value is None and key in KINDS[spec.kind].optional:
        return []
    values: list[Any] = value if isinstance(value, list) else [value]
    if len(values) > 1 and not KINDS[spec.kind].inputs[key]:
        raise UserError(f"{source}: step {spec.name}: {key} takes one, {len(values)} are given")
    for item in values:
        if not isinstance(item, str) or not item:
            raise UserError(f"{source}: step {spec.name}: {key} is {item!r}; name a step ($name), a file or a model")
    return values


def _matching(reference: str, spec: StepSpec, specs: dict[str, StepSpec], source: str) -> list[str]:
    """The steps that ``$pattern`` or ``$pattern/file`` means."""
    pattern = reference[1:].split("/", 1)[0]
    names = [name for name in specs if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise UserError(f"{source}: step {spec.name}: {reference} means no step; there are {', '.join(specs)}")
    return names


def _step(spec: StepSpec, made: dict[str, Step], specs: dict[str, StepSpec], study: StudySpec, out: Path) -> Step:
    kind = KINDS[spec.kind]
    inputs: dict[str, tuple[str, ...]] = {}
    origins: dict[str, tuple[str, ...]] = {}
    identity: dict[str, list[str]] = {}
    for key, many in kind.inputs.items():
        values: list[str] = []
        names: list[str] = []
        known: list[str] = []
        for value in _given(spec, key, study.source):
            if not value.startswith("$"):
                where = f"{study.source}: step {spec.name}: {key}"
                known.append(_outside(value, where, hub=key in ("model", "questions", "source")))
                values.append(value)
                continue
            file = value[1:].partition("/")[2]
            for name in _matching(value, spec, specs, study.source):
                step = made[name]
                values.append(str(step.folder / (file or step.kind.product)))
                names.append(name)
                known.append(f"{step.key}/{file or step.kind.product}")
        if len(values) > 1 and not many:
            raise UserError(f"{study.source}: step {spec.name}: {key} takes one, {', '.join(names)} are meant")
        inputs[key], origins[key], identity[key] = tuple(values), tuple(names), known
    options = {k: v for k, v in spec.options.items() if k not in kind.inputs and k not in kind.labels}
    labels = {k: v for k, v in spec.options.items() if k in kind.labels}
    deciding = {k: v for k, v in options.items() if k not in FREE}
    for name in _FILES:
        if isinstance(deciding.get(name), str):
            deciding[name] = _named_file(name, deciding[name], f"{study.source}: step {spec.name}: {name}")
    key = _hash({"kind": kind.name, "version": __version__, "options": deciding, "inputs": identity})
    after = tuple(dict.fromkeys(name for names in origins.values() for name in names))
    folder = out / "steps" / f"{spec.name}.{key[:8]}"
    return Step(spec.name, kind, options, labels, spec.values, inputs, origins, after, key, folder)


def _outside(value: str, where: str, *, hub: bool) -> str:
    """What identifies an input that is no step: a file's or folder's contents, or the name of a model or data set."""
    path = Path(value).expanduser()
    if path.is_file():
        return _file_hash(path)
    if path.is_dir():
        return _hash([[str(p.relative_to(path)), _file_hash(p)] for p in _content(path)])
    looks_local = value.startswith((".", "/", "~")) or path.suffix in (".jsonl", ".json", ".parquet", ".gguf")
    if looks_local or not hub:
        raise UserError(f"{where}: {value} is not there; mend the name, or make the file first")
    return f"name:{value}"


def _content(folder: Path) -> list[Path]:
    """The files that make a folder what it is: of a run its samples or records, not what was counted, drawn or exported since."""
    places = [folder]
    if (folder / RUN_FILE).is_file():
        places = [folder / name for name in (RUN_FILE, "samples", "parts", "rft.jsonl", "steps.jsonl")]
    files = [file for place in places for file in (place, *place.rglob("*")) if file.is_file()]
    return sorted(file for file in files if not file.name.startswith("."))


def _named_file(name: str, value: str, where: str) -> str:
    """What identifies the value of an option that may name a file: a built-in template's name, or the file's contents."""
    if name == "prompt":
        try:
            load_template(value)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if value in TEMPLATES:
            return value
    return _outside(value, where, hub=False)


def _file_hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def _hash(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def dependents(graph: dict[str, Step], names: Iterable[str]) -> set[str]:
    """The steps that build, at any distance, on one of ``names``."""
    found = set(names)
    for step in graph.values():  # each stands behind those it builds on
        if found.intersection(step.after):
            found.add(step.name)
    return found - set(names)
