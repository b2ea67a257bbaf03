"""A study's tables: Markdown for people, JSON for programs, report.json for ``rftfast report``."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rftfast import __version__
from rftfast.data.atomic import write_atomic
from rftfast.evaluate.intervals import Interval
from rftfast.report.data import CostRow, Estimate, RunRef, StudyData, TableRow
from rftfast.study.curves import curves
from rftfast.study.efficiency import efficiencies, orderings
from rftfast.study.graph import Step
from rftfast.study.results import Row, StepRow, step_rows
from rftfast.study.state import DONE, FAILED, State
from rftfast.study.study_file import StudySpec


def write_tables(
    study: StudySpec, graph: Mapping[str, Step], states: Mapping[str, State], rows: Sequence[Row], out: Path
) -> list[Path]:
    """Write table.md, table.json and report.json into ``out``; the paths of them."""
    files = [out / "table.md", out / "table.json"]
    text = markdown(study, rows) + spurious(step_rows(graph, states))
    write_atomic(files[0], [text.encode()])
    write_atomic(files[1], [json.dumps(plain(study, graph, states, rows), indent=1).encode() + b"\n"])
    return [*files, report(study, graph, states, rows, out).write(out)]


def markdown(study: StudySpec, rows: Sequence[Row]) -> str:
    """The table, figures in percent and points with 95 % intervals."""
    ks = {row.k for row in rows if row.k}
    k = "k" if len(ks) > 1 else next(iter(ks), None)
    columns = ["", "maj1@1", *([f"maj1@{k}", f"pass@{k}"] if k else [])]
    gains = any(row.gain for row in rows)
    columns += [f"over {study.baseline}, points", "p"] if gains else []
    paths = any(row.data_mean("rows") for row in rows)
    columns += ["training rows", "distinct paths a question (S)"] if paths else []
    columns += ["runs"]
    lines = [f"# {study.title}", "", _line(columns), _line(["---", *["---:"] * (len(columns) - 1)])]
    for row in rows:
        cells = [f"{row.group}: {row.name}" if row.group else row.name, percent(row.greedy)]
        if k:
            told = f" (k = {row.k})" if row.k and len(ks) > 1 else ""
            cells += [percent(found) + told if (found := row.sampled(kind)) else "" for kind in ("maj1", "pass")]
        if gains:
            cells += [points(row.gain.interval), _p(row.gain.by_question.p)] if row.gain else ["", ""]
        if paths:
            rows_mean, sampled = row.data_mean("rows"), row.data_mean("sampled")
            cells += [
                "" if rows_mean is None else f"{rows_mean:,.0f}",
                "" if sampled is None else f"{sampled:.2f}",
            ]
        lines.append(_line([*cells, ", ".join(f"{100 * e.accuracy:.1f}" for e in row.evaluations)]))
    lines += ["", _legend(rows, gains)]
    for name, series in curves(study, rows).items():
        for one in series:
            if one.fit is not None:
                lines += ["", f"{_TITLES[name]}, {one.name}: {one.fit.text}."]
            elif one.note:
                lines += ["", f"{_TITLES[name]}: {one.name} is {one.note}."]
    return "\n".join([*lines, *_orderings(rows)]) + "\n"


def _orderings(rows: Sequence[Row]) -> list[str]:
    """Every two methods, over all numbers of problems."""
    found = orderings(rows)
    if not found:
        return []
    lines = ["", "First method minus second, points, a mean over the numbers of problems:", ""]
    lines += [_line(["first", "second", "difference", "verdict", "runs"]), _line(["---", "---", "---:", "---", "---"])]
    for o in found:
        runs = ", ".join(f"{100 * run:+.1f}" for run in o.runs)
        lines.append(_line([o.first, o.second, points(o.interval), o.verdict, runs]))
    return lines


def spurious(rows: Sequence[StepRow]) -> str:
    """The table of steps of right answers; nothing where no rollouts are labelled for it."""
    known = [row for row in rows if row.steps]
    if not known:
        return ""
    lines = ["", "Steps of right answers, by rollouts from the model itself:", ""]
    columns = ["", "without progress, %", "surely harmful", "right answers", "their steps", "runs, %"]
    lines += [_line(columns), _line(["---", *["---:"] * (len(columns) - 1)])]
    for row in known:
        cells = [f"{row.group}: {row.name}" if row.group else row.name, percent(row.share), f"{row.total('harmful'):,}"]
        cells += [f"{row.total('right'):,}", f"{row.steps:,}", ", ".join(f"{100 * share:.1f}" for share in row.shares)]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _legend(rows: Sequence[Row], gains: bool) -> str:
    several = any(len(row.evaluations) > 1 for row in rows)
    text = (
        "Means over runs (seeds), with 95 % intervals by Student's t over the runs (over the questions, where runs are alike). "
        if several
        else "95 % intervals over the questions (Wilson). "
    )
    if gains:
        text += (
            "p: exact, paired by question, each question once with the sum of its gaps over the runs (McNemar's test where it is"
            " in one run). "
        )
    return text + "runs: maj1@1 of each."


_TITLES = {
    "loss": "accuracy against pre-training loss",
    "fraction": "accuracy against the share of the questions",
    "problems": "accuracy against training problems",
    "k": "accuracy against samples a question",
    "gain": "gain against distinct paths a question",
}


def plain(
    study: StudySpec, graph: Mapping[str, Step], states: Mapping[str, State], rows: Sequence[Row]
) -> dict[str, Any]:
    """Everything as plain values; shares are between 0 and 1."""
    return {
        "title": study.title,
        "baseline": study.baseline,
        "parameters": study.parameters,
        "rows": [_plain_row(row) for row in rows],
        "efficiency": [each.report() for each in efficiencies(rows, study.baseline)],
        "orderings": [each.report() for each in orderings(rows)],
        "steps_of_right_answers": [each.report() for each in step_rows(graph, states)],
        "steps": [
            {"name": name, "kind": step.kind.name, "status": states[name].status, "seconds": states[name].seconds}
            for name, step in graph.items()
        ],
    }


def _plain_row(row: Row) -> dict[str, Any]:
    g = row.gain
    return {
        "group": row.group,
        "row": row.name,
        "maj1@1": row.greedy.report(),
        "k": row.k,
        "maj1@k": _plain_interval(row.sampled("maj1")),
        "pass@k": _plain_interval(row.sampled("pass")),
        "gain": None
        if g is None
        else {"runs": list(g.runs), **g.interval.report(), "by_question": g.by_question.report()},
        "training_rows": row.data_mean("rows"),
        "distinct_sampled": row.data_mean("sampled"),
        "distinct_with_gold": row.data_mean("union"),
        "runs": [
            {"step": e.step.name, "pair": e.pair, "questions": len(e.right), "maj1@1": e.accuracy}
            for e in row.evaluations
        ],
    }


def _plain_interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else interval.report()


def report(
    study: StudySpec, graph: Mapping[str, Step], states: Mapping[str, State], rows: Sequence[Row], out: Path
) -> StudyData:
    """What ``rftfast report`` draws."""
    table = tuple(
        TableRow(
            row.name,
            row.group,
            _estimate(row.greedy),
            _estimate(row.sampled("maj1")),
            _estimate(row.sampled("pass")),
            row.k,
            None if row.data_mean("rows") is None else round(row.data_mean("rows") or 0),
            row.data_mean("sampled"),
            _note(row, study),
        )
        for row in rows
    )
    return StudyData(
        study.title,
        study.summary,
        tuple(_notices(graph, states)),
        table,
        curves(study, rows),
        tuple(_runs(graph, states, out)),
        tuple(
            CostRow(name, seconds=state.seconds, device=_device(graph[name]))
            for name, state in states.items()
            if state.status == DONE
        ),
        _provenance(study),
    )


def _note(row: Row, study: StudySpec) -> str:
    parts = [str(row.labels["note"])] if row.labels.get("note") else []
    if row.gain is not None:
        parts.append(f"{points(row.gain.interval)} points over {study.baseline}")
    return "; ".join(parts)


def _notices(graph: Mapping[str, Step], states: Mapping[str, State]) -> Iterable[str]:
    for name in graph:
        state = states[name]
        if state.status == FAILED:
            yield f"{name} failed (exit status {state.exit_status}); to run it alone: {shlex.join(state.command)}"
    left = [name for name in graph if states[name].status not in (DONE, FAILED)]
    if left:
        yield f"{len(left)} of {len(graph)} steps have not run: {', '.join(left[:6])}{', …' * (len(left) > 6)}"


def _runs(graph: Mapping[str, Step], states: Mapping[str, State], out: Path) -> Iterable[RunRef]:
    """The runs that can be laid side by side: those of one set of questions, the first that the study has; and those whose steps
    were valued, of each row the first."""
    valued: dict[tuple[str, str], Step] = {}
    for row in step_rows(graph, states):
        valued[row.group, row.name] = row.of[0]
    rolled = {name: step for step in valued.values() for name in step.origins["run"]}
    done = [step for name, step in graph.items() if step.kind.name == "sample" and states[name].status == DONE]
    plain_runs = [step for step in done if step.name not in _rolled_runs(graph)]
    for step in plain_runs:
        if step.inputs["questions"] == plain_runs[0].inputs["questions"]:
            yield RunRef(step.name, _product(step, out))
    tested = [step for step in done if step.name in rolled]
    for step in tested:
        if step.inputs["questions"] == tested[0].inputs["questions"]:
            yield RunRef(step.name, _product(step, out), "test", _product(rolled[step.name], out))


def _rolled_runs(graph: Mapping[str, Step]) -> set[str]:
    """Names of the runs that were drawn to value their steps."""
    return {
        name
        for step in graph.values()
        if step.kind.name == "rollout" and "row" in step.labels
        for name in step.origins["run"]
    }


def _product(step: Step, out: Path) -> str:
    return str((step.folder / step.kind.product).relative_to(out))


def _device(step: Step) -> str:
    return str(step.options.get("device") or "cpu")


def _provenance(study: StudySpec) -> dict[str, str]:
    settings = {name: json.dumps(value, ensure_ascii=False) for name, value in study.parameters.items()}
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return {
        "study": study.source,
        **settings,
        "rftfast": __version__,
        "machine": machine,
        "command": shlex.join(sys.argv),
    }


def _estimate(interval: Interval | None) -> Estimate | None:
    return None if interval is None else Estimate(interval.value, interval.low, interval.high)


def percent(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.value:.1f} ({100 * interval.low:.1f} – {100 * interval.high:.1f})"


def points(interval: Interval) -> str:
    return f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} – {100 * interval.high:+.1f})"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.1g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
