"""The page itself: what is read, put together and written as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from rftfast.data.jsonl import whole_file
from rftfast.data.manifest import RUN_FILE, read_manifest
from rftfast.data.records import VERDICTS, Question
from rftfast.errors import UserError
from rftfast.evaluate.run_metrics import questions_wanted
from rftfast.report import figures, tables
from rftfast.report.data import CURVES, REPORT_FILE, ROLES, CostRow, StudyData, read_study
from rftfast.report.html import escape
from rftfast.report.runs import RunView, read_runs
from rftfast.report.steps import run_of


@dataclass(frozen=True)
class Written:
    """``path`` holds ``bytes`` bytes and the text of ``packed`` of ``samples`` samples."""

    path: Path
    bytes: int
    samples: int
    packed: int


@dataclass(frozen=True)
class _Group:
    """Runs over the same questions."""

    role: str
    views: Sequence[RunView]
    overlap: Mapping[str, Any] | None


def write_report(
    sources: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    rollouts: str | Path | None = None,
    questions: Sequence[Question] = (),
    most: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Written:
    """Write the page of a study's folder, or of one or several run directories of the same questions.

    Args:
        sources: a folder with a report.json (a study), or run directories, or the directories of rollouts in these.
        out: the file; ``report.html`` in the folder itself by default, in the working directory for several.
        rollouts: directory of rollouts of the one run; by default RUN/rollouts of each run, where it is there.
        questions: tell the questions' texts, where prompts are not plainly made of them (few-shot chat templates).
        most: samples a question whose text is in the page, kept ones first, 0 for all; by default all where the runs are
            small (64 MB), else 24.
        progress: told of each question how many are done, of how many.

    Raises:
        UserError: a source that cannot be read, or a disk that refuses.
    """
    paths = [Path(source) for source in sources]
    if not paths:
        raise UserError("report: name a run directory or a study's folder")
    if most is not None and most < 0:
        raise UserError(f"report: samples is {most}; give 0 for all or a number above")
    if rollouts is not None and len(paths) > 1:
        raise UserError("report: --rollouts belongs to one run; name one, or put each run's into its folder")
    runs = [run_of(path) for path in paths]
    if len(paths) == 1 and runs != paths:
        rollouts = rollouts or paths[0]
    paths = runs
    for path in paths:
        if (path / RUN_FILE).is_file() and "method" in read_manifest(path)["config"]:
            raise UserError(
                f"{path} is the folder of a training run, whose curve is loss.png; name a run of 'rftfast sample'"
            )
    study_here = [path for path in paths if (path / REPORT_FILE).is_file()]
    if study_here and len(paths) > 1:
        raise UserError(f"{study_here[0]} is a study; a report is of one study, or of runs")
    if study_here and rollouts is not None:
        raise UserError(f"{study_here[0]} is a study, which names its rollouts itself; leave --rollouts out")
    read = partial(read_runs, questions=questions, most=most, progress=progress)
    if study_here:
        study = read_study(paths[0])
        groups = _groups(paths[0], study, read)
    else:
        views, overlap = read(paths, rollouts=None if rollouts is None else [rollouts])
        groups = [_Group("train", views, overlap)]
        study = _of_runs(views)
    target = Path(out) if out is not None else (paths[0] / "report.html" if len(paths) == 1 else Path("report.html"))
    page = _page(study, groups)
    with whole_file(target) as temporary:
        try:
            temporary.write_text(page, encoding="utf-8", newline="\n")
        except OSError as error:
            raise UserError(f"cannot write {target} ({error.strerror or error}); choose another --out") from error
    packs = [view.pack for group in groups for view in group.views]
    return Written(target, len(page.encode()), sum(p["samples"] for p in packs), sum(p["packed"] for p in packs))


def _groups(folder: Path, study: StudyData, read: Callable[..., Any]) -> list[_Group]:
    groups = []
    for role in ROLES:
        refs = [run for run in study.runs if run.role == role]
        if refs:
            views, overlap = read(
                [folder / run.path for run in refs],
                [run.name for run in refs],
                rollouts=[folder / run.rollouts if run.rollouts else None for run in refs],
            )
            groups.append(_Group(role, views, overlap))
    return groups


def _of_runs(views: Sequence[RunView]) -> StudyData:
    """What a report.json would say of runs alone."""
    first = views[0]
    title = first.name if len(views) == 1 else f"{len(views)} runs pooled"
    models = ", ".join(dict.fromkeys(view.model for view in views))
    told = [f"{first.statistics['questions']:,} questions", f"{sum(v.pack['samples'] for v in views):,} samples"]
    for name in ("k", "temperature", "seed"):  # as far as the runs agree
        values = {json.dumps(view.config.get(name)) for view in views}
        if len(values) == 1 and name in first.config:
            told.append(f"{name} {first.config[name]}")
    notices = []
    for view in views:
        wanted = questions_wanted(view.metrics)
        if wanted is not None and wanted > view.statistics["questions"]:
            notices.append(
                f"{view.path} is not finished: {view.statistics['questions']:,} of {wanted:,} questions are stored. "
                "The same 'rftfast sample' command goes on with it."
            )
    lead = "" if models == title else f"{models}: "
    provenance: dict[str, str] = {}
    for view in views:
        prefix = f"{view.name}: " if len(views) > 1 else ""
        provenance.update({prefix + name: value for name, value in tables.run_provenance(view).items()})
    return StudyData(title, lead + ", ".join(told), notices=tuple(notices), provenance=provenance)


def _page(study: StudyData, groups: Sequence[_Group]) -> str:
    main = [_head(study), *_results(study, groups), *_steps(groups), *_figures(study, groups), *_cost(study, groups)]
    if study.provenance:
        main.append(
            _section("provenance", "Provenance", _folded("How this was made", tables.provenance(study.provenance)))
        )
    views = [view for group in groups for view in group.views]
    style, script = _file("page.css"), _file("page.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    questions = _file("questions.html") if views else ""
    at = len(main) - (1 if study.provenance else 0)
    sections = [*main[:at], questions, *main[at:]]
    return _fill(
        _file("page.html"),
        {
            "policy": escape(policy),
            "title": escape(study.title),
            "style": style,
            "main": "\n".join(part for part in sections if part),
            "data": _data(groups),
            "script": script,
        },
    )


def _head(study: StudyData) -> str:
    notices = "".join(f"<li>{escape(notice)}</li>" for notice in study.notices)
    return (
        f"<header><h1>{escape(study.title)}</h1>"
        + (f'<p class="lead">{escape(study.summary)}</p>' if study.summary else "")
        + (f'<ul class="notices">{notices}</ul>' if notices else "")
        + "</header>"
    )


def _results(study: StudyData, groups: Sequence[_Group]) -> list[str]:
    parts = []
    if study.table:
        note = "Small figures are 95 % intervals. maj1@1: greedy; maj@k and pass@k: over k samples a question."
        parts.append(_section("results", "Results", tables.results(study.table) + f'<p class="fine">{note}</p>'))
    for group in groups:
        title = "Results" if not study.table else "Sampling" if group.role == "train" else "Sampled evaluation"
        note = (
            "Small figures are 95 % intervals (Wilson). pass@1: one sample's chance, pass@k: at least one of all samples has the right "
            "answer, maj@k: the answer given most often is right. Distinct paths: equation lists a question that lead to the "
            "right answer with right equations."
        )
        anchor = "results" if not study.table else f"sampling-{group.role}"
        parts.append(_section(anchor, title, tables.sampling(group.views) + f'<p class="fine">{note}</p>'))
    return parts


def _steps(groups: Sequence[_Group]) -> list[str]:
    views = [view for group in groups for view in group.views if view.steps is not None]
    if not views:
        return []
    note = (
        "From rollouts out of the middle of responses. First pit: the first step after which the chance of the right answer is "
        "lowest. No progress: steps of responses with the right answer that did not raise the chance of it, though it was below 1; "
        "of a handful of rollouts some do so by chance. Surely harmful: the whole 95 % interval of what the step added is "
        "below 0. The steps themselves are shown in the samples below."
    )
    return [_section("steps", "Steps", tables.steps(views) + f'<p class="fine">{note}</p>')]


def _figures(study: StudyData, groups: Sequence[_Group]) -> list[str]:
    drawn = [figures.curve(name, study.curves[name]) for name in CURVES if name in study.curves]
    by_role = {group.role: group for group in groups}
    train, test = by_role.get("train"), by_role.get("test")
    if train is not None:
        if train.overlap is not None:
            drawn.append(figures.exclusive_shares(train.overlap))
        drawn.append(figures.distinct_paths(train.views))
    counted = test or train  # the paper counts lists on test questions
    if counted is not None:
        drawn.append(figures.equation_lists(counted.views))
        drawn.append(figures.right_answers(counted.views))
        drawn.append(figures.solved(counted.views))
    inside = "".join(drawn)
    return [_section("figures", "Figures", f'<div class="figures">{inside}</div>')] if inside else []


def _cost(study: StudyData, groups: Sequence[_Group]) -> list[str]:
    rows: list[CostRow] = list(study.cost)
    if not rows:
        rows = [row for group in groups for view in group.views if (row := tables.run_cost(view)) is not None]
    return [_section("cost", "Cost", tables.cost(rows))] if rows else []


def _data(groups: Sequence[_Group]) -> str:
    """What the script reads, safe inside a script element: no ``<`` stands in it."""
    sets: list[dict[str, Any]] = []
    for group in groups:
        first = len(sets)
        of = f" ({group.role})" if len(groups) > 1 else ""
        sets += [{"name": view.name + of, "first": first, **view.pack} for view in group.views]
    text = json.dumps({"verdicts": VERDICTS, "sets": sets}, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _section(identity: str, title: str, inside: str) -> str:
    return f'<section id="{identity}"><h2>{escape(title)}</h2>{inside}</section>'


def _folded(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def _file(name: str) -> str:
    return resources.files("rftfast.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Every ``{{name}}`` once; what is filled in is not looked at again."""
    return re.sub(r"\{\{([a-z]+)\}\}", lambda m: values[m[1]], template)
