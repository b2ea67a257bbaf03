"""What ``rftfast study --dry-run`` prints: the graph, what is done, what the rest may take."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from statistics import mean

from rftfast.study.costs import Cost, cost_of
from rftfast.study.graph import Step
from rftfast.study.run import duration
from rftfast.study.state import DONE, FAILED, RUNNING, WAITING, State
from rftfast.study.study_file import StudySpec

_WORDS = {DONE: "done", FAILED: "failed, will be run again", RUNNING: "was stopped, will go on", WAITING: "to do"}


def graph_lines(
    study: StudySpec, graph: Mapping[str, Step], states: Mapping[str, State], *, commands: bool
) -> Iterator[str]:
    """A line for each step, in an order in which they can run, and the sums."""
    yield f"{study.title} ({study.source}): {len(graph)} steps, {study.jobs} at a time"
    width = max(map(len, graph))
    total = Cost()
    for name, step in graph.items():
        state = states[name]
        cost = cost_of(step, graph)
        after = f"  after {', '.join(step.after)}" if step.after else ""
        yield f"  {name:<{width}}  {step.kind.name:<9} {_WORDS[state.status]}{_time(state, states)}{cost.text()}{after}"
        if commands:
            yield f"      {shlex.join(state.command)}"
        if state.status != DONE:
            total += cost
    left = [state for state in states.values() if state.status != DONE]
    known = [guess for state in left if (guess := _guess(state, states)) is not None]
    yield f"done {len(graph) - len(left)} of {len(graph)}{total.text(', left: ')}"
    if left and len(known) == len(left):
        yield f"the rest takes about {duration(sum(known) / study.jobs)}, as its like took"


def _time(state: State, states: Mapping[str, State]) -> str:
    if state.status == DONE:
        return f" in {duration(state.seconds)}"
    guess = _guess(state, states)
    return "" if guess is None else f", about {duration(guess)}"


def _guess(state: State, states: Mapping[str, State]) -> float | None:
    """What finished steps with a name of the same pattern (digits apart) took on average."""
    like = [s.seconds for s in states.values() if s.status == DONE and _pattern(s) == _pattern(state)]
    return mean(like) if like else None


def _pattern(state: State) -> tuple[str, str]:
    return state.kind, "".join("0" if c.isdigit() else c for c in state.name)
