"""The tables of a page: results, what it cost, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rftfast.evaluate.intervals import Interval, wilson, wilson_mean
from rftfast.report.axes import Axis, linear
from rftfast.report.charts import interval
from rftfast.report.data import CostRow, Estimate, TableRow
from rftfast.report.html import count, duration, escape, hours, percent, rounded, scientific, table
from rftfast.report.runs import RunView


def results(rows: Sequence[TableRow]) -> str:
    """A study's headline table: every model with its accuracies and what it was trained on."""
    axis = _common(rows)
    heads = [
        ("model", ""),
        ("maj1@1, %", "num"),
        ("95 % interval", "plot"),
        ("k", "num"),
        ("maj@k, %", "num"),
        ("pass@k, %", "num"),
        ("training rows", "num"),
        ("distinct paths", "num"),
        ("", "note"),
    ]
    lines: list[Sequence[str] | str] = []
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append(escape(group))
        drawn = ""
        if axis is not None and row.maj1 is not None and row.maj1.low is not None and row.maj1.high is not None:
            drawn = interval(row.maj1.value, row.maj1.low, row.maj1.high, axis)
        lines.append(
            [
                escape(row.name),
                estimate(row.maj1),
                drawn,
                count(row.k),
                estimate(row.majk),
                estimate(row.passk),
                count(row.data_rows),
                rounded(row.distinct_paths),
                escape(row.note),
            ]
        )
    return table(heads, lines, "Results")


def sampling(views: Sequence[RunView]) -> str:
    """What each run drew and found."""
    heads = [
        ("run", ""),
        ("questions", "num"),
        ("samples each", "num"),
        ("maj1@1, %", "num"),
        ("pass@1, %", "num"),
        ("maj@k, %", "num"),
        ("pass@k, %", "num"),
        ("distinct paths", "num"),
        ("with gold", "num"),
        ("kept paths", "num"),
    ]
    lines = []
    for view in views:
        figures, whole = view.statistics, view.statistics["all_samples"]
        n, greedy = figures["questions"], view.config.get("temperature") == 0
        draws = round(whole["samples_per_question"])
        one = estimate(wilson_mean(view.chances, draws))
        several = draws > 1
        lines.append(
            [
                escape(view.name),
                count(n),
                f"{whole['samples_per_question']:,.4g}",
                one if greedy else "",
                "" if greedy else one,
                estimate(wilson(whole["maj"], n)) if several else "",
                estimate(wilson(whole["pass"], n)) if several else "",
                rounded(whole["distinct_sampled"]),
                rounded(whole["distinct_with_gold"]),
                count(view.pack["kept"]),
            ]
        )
    return table(heads, lines, "Sampling")


def steps(views: Sequence[RunView]) -> str:
    """What rollouts said of the steps of responses, by run."""
    heads = [
        ("run", ""),
        ("rollouts", "num"),
        ("right, %", "num"),
        ("wrong responses", "num"),
        ("first pit at step 1", "num"),
        ("step 2", "num"),
        ("step 3", "num"),
        ("later", "num"),
        ("right responses", "num"),
        ("their steps", "num"),
        ("no progress, %", "num"),
        ("surely harmful", "num"),
    ]
    lines = []
    for view in views:
        t = view.steps
        assert t is not None
        pits = [t.pits[1], t.pits[2], t.pits[3], sum(n for step, n in t.pits.items() if step > 3)]
        lines.append(
            [
                escape(view.name),
                count(t.rollouts),
                percent(t.right_rollouts / t.rollouts) if t.rollouts else "",
                count(t.wrong),
                *(count(n) if t.wrong else "" for n in pits),
                count(t.right),
                count(t.right_steps) if t.right else "",
                estimate(wilson(t.spurious / t.right_steps, t.right_steps)) if t.right_steps else "",
                count(t.harmful) if t.right_steps else "",
            ]
        )
    return table(heads, lines, "Steps")


def cost(rows: Sequence[CostRow]) -> str:
    heads = [
        ("step", ""),
        ("FLOPs", "num"),
        ("GPU hours", "num"),
        ("time", "num"),
        ("tokens", "num"),
        ("tokens/s", "num"),
        ("on", ""),
        ("", "note"),
    ]
    lines = []
    for row in rows:
        rate = row.tokens / row.seconds if row.tokens and row.seconds else None
        lines.append(
            [
                escape(row.step),
                scientific(row.flops),
                hours(row.gpu_hours),
                duration(row.seconds),
                count(row.tokens),
                count(rate),
                escape(row.device),
                escape(row.note),
            ]
        )
    return table(heads, lines, "Cost")


def run_cost(view: RunView) -> CostRow | None:
    """What drawing a run's samples took, over all the processes that worked on it; None where it says nothing of it."""
    lasts: list[Mapping[str, Any]] = []  # each process's last line with figures
    fresh = True
    for line in view.metrics:
        if line.get("event") in ("start", "resume"):
            fresh = True
        elif all(isinstance(line.get(name), (int, float)) for name in ("seconds", "tokens")):
            lasts[len(lasts) - (not fresh) :] = [line]
            fresh = False
    if not lasts:
        return None

    def total(name: str) -> float:
        return sum(line.get(name) or 0 for line in lasts)

    notes = view.manifest.get("notes") or {}
    device = str(notes.get("device", ""))
    if device and isinstance(notes.get("threads"), int):
        device = f"{device}, {notes['threads']} threads"
    tokens, prompt, computed = total("tokens"), total("prompt_tokens"), total("computed_prompt_tokens")
    said = []
    if prompt + tokens:
        said.append(f"sharing spared {(prompt - computed) / (prompt + tokens):.1%} of all tokens")
    if total("stop_saved_tokens"):
        said.append(f"early stop spared about {total('stop_saved_tokens'):,.0f} more")
    if len(lasts) > 1:
        said.append(f"by {len(lasts)} processes, one after another")
    return CostRow(
        f"sampling: {view.name}", seconds=total("seconds"), tokens=int(tokens), device=device, note="; ".join(said)
    )


def provenance(values: Mapping[str, str]) -> str:
    return table([("", ""), ("", "")], [[escape(name), escape(value)] for name, value in values.items()], "Provenance")


def run_provenance(view: RunView) -> dict[str, str]:
    """run.json, flat: what the run was made with."""
    found = {"directory": view.path, "started": str(view.manifest.get("started", ""))}
    for section in ("config", "fingerprints", "versions", "notes"):
        values = view.manifest.get(section)
        if isinstance(values, dict):
            found.update(_flat(values, "" if section == "config" else f"{section}."))
    return {name: value for name, value in found.items() if value != ""}


def estimate(value: Estimate | Interval | None) -> str:
    """In percent, its interval small beside it."""
    if value is None:
        return ""
    if value.low is None or value.high is None:
        return percent(value.value)
    return f'{percent(value.value)}<small class="ci">{percent(value.low)}–{percent(value.high)}</small>'


def _common(rows: Sequence[TableRow]) -> Axis | None:
    values = [v for row in rows if row.maj1 is not None for v in (row.maj1.low, row.maj1.high) if v is not None]
    return linear("", values, zero=False) if values else None


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        elif name == "shots" and isinstance(value, list):
            found[f"{prefix}{name}"] = f"{len(value)} worked examples"
        else:
            found[f"{prefix}{name}"] = "" if value is None else str(value)
    return found
