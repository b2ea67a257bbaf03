"""What rollouts have found out of one question, as kept in memory and as a record on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from rftfast.errors import UserError
from rftfast.negatives.values import Advantage, Value, advantage, ended, estimate

FOLDER = "rollouts"  # in the run directory, unless told otherwise


@dataclass(frozen=True)
class Rollout:
    """One completion of a state: the text after the state's, and whether the whole reaches the right answer."""

    index: int
    text: str
    right: bool
    answer: str | None
    tokens: int
    logprob: float
    finish_reason: str

    @property
    def complete(self) -> bool:
        return self.finish_reason != "length"


@dataclass(frozen=True)
class State:
    """A prefix of a response, or of several that begin alike. ``name`` is the request's; ``tokens`` its length after the
    prompt. ``sequential``: drawing stopped at the first right rollout, so their share is no estimate of Q."""

    name: str
    tokens: int
    sequential: bool
    rollouts: tuple[Rollout, ...]

    @property
    def right(self) -> int:
        return sum(r.right for r in self.rollouts)


@dataclass(frozen=True)
class Rolled:
    """A response with its states. ``ends[i]``: characters of ``text`` up to the end of step i.

    ``states[i]`` is the number of the state before step i + 1 among the question's (``states[0]`` that of the question
    itself), None where no rollout was drawn. The state after the last step needs none: the response has ended.
    ``search``: ``all`` or ``bisect``; ``pit``: the step, from 1, that a bisection ended with.
    """

    sample_index: int
    text: str
    verdict: str
    right: bool
    complete: bool
    retokenised: bool
    joined: int
    ends: tuple[int, ...]
    states: tuple[int | None, ...]
    search: str = "all"
    pit: int | None = None

    def __post_init__(self) -> None:
        assert len(self.states) == len(self.ends), (self.states, self.ends)

    def step_texts(self) -> list[str]:
        return [self.text[a:b] for a, b in pairwise((0, *self.ends))]


@dataclass(frozen=True)
class RolledQuestion:
    """A question with the responses that were taken apart. ``begin + text`` goes on from ``prompt`` (training form).

    ``sampled``: (right, drawn) of the run's own samples where they tell the question's value, else None.
    """

    id: str
    prompt: str
    begin: str
    gold: str
    sampled: tuple[int, int] | None
    responses: tuple[Rolled, ...]
    states: tuple[State, ...]

    def values(
        self, response: Rolled, best_of: int, level: float = 0.95, interval: str = "wilson"
    ) -> list[Value | None]:
        """Value of the question, then after each step; None where it is not known.

        Raises UserError if a state has fewer rollouts than ``best_of``.
        """
        found: list[Value | None] = []
        for i, number in enumerate(response.states):
            if i == 0 and self.sampled is not None:
                found.append(estimate(*self.sampled, best_of, level, interval))
            elif number is None or (self.states[number].sequential and self.states[number].right):
                found.append(None)
            else:
                state = self.states[number]
                found.append(estimate(state.right, len(state.rollouts), best_of, level, interval))
        return [*found, ended(response.right)]

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any], where: str) -> RolledQuestion:
        """Read what :meth:`to_record` wrote. Raises UserError for anything else."""
        try:
            states = tuple(
                State(s["name"], s["tokens"], s["sequential"], tuple(Rollout(**r) for r in s["rollouts"]))
                for s in record["states"]
            )
            responses = tuple(
                Rolled(**{**r, "ends": tuple(r["ends"]), "states": tuple(r["states"])}) for r in record["responses"]
            )
            sampled = tuple(record["sampled"]) if record["sampled"] is not None else None
            rest = {name: record[name] for name in ("id", "prompt", "begin", "gold")}
            return cls(**rest, sampled=sampled, responses=responses, states=states)  # type: ignore[arg-type]
        except (KeyError, TypeError, AssertionError) as error:
            raise UserError(
                f"{where}: question {record.get('id')!r} is not a record of rollouts ({error}); name the folder that "
                "'rftfast rollout' wrote"
            ) from None


def advantages(values: list[Value | None]) -> list[Advantage | None]:
    """Of each step; None where a value on either side is not known."""
    return [advantage(a, b) if a is not None and b is not None else None for a, b in pairwise(values)]
