"""Whether rollouts are right: the text of the prefix and that of the rollout, judged as one response.

Stop strings and early stop see the whole response, as they did when it was drawn: a stop string may begin in the prefix.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from rftfast.engine.monitor import DrawnPath
from rftfast.engine.params import Generation
from rftfast.negatives.records import Rollout
from rftfast.pipeline.early_stop import ANSWERED, OnlineVerifier
from rftfast.verify import Policy, cut, verify_batch


class Border:
    """A monitor that ends a rollout where a stop string is complete that began in its prefix, and (``early_stop``) after
    the line of its answer. ``tails`` are the ends of the prefixes by request name; the caller keeps them up to date. Where
    it cannot (an engine in another process), such a rollout is drawn on and its text cut all the same."""

    def __init__(self, stops: Sequence[str], policy: Policy, *, early_stop: bool) -> None:
        self._stops = tuple(s for s in stops if len(s) > 1)
        self._longest = max((len(s) for s in self._stops), default=1) - 1
        self._answers = OnlineVerifier(policy) if early_stop else None
        self.triggers = b"".join(s[-1:].encode()[-1:] for s in self._stops)
        self.triggers += self._answers.triggers if self._answers is not None else b""
        self.tails: dict[str, str] = {}

    def __call__(self, path: DrawnPath) -> str | None:
        tail, text = self.tails.get(path.name, ""), path.text
        if len(text) - path.newest < self._longest and any(self._begun(stop, tail, text) for stop in self._stops):
            return "stop"
        if self._answers is None:
            return None
        # The answer may stand in the prefix's last line already: sentences of one line are steps.
        return self._answers.word(_last_line(tail) + text, path.newest)

    def _begun(self, stop: str, tail: str, text: str) -> bool:
        before = tail[-(len(stop) - 1) :]
        return stop in before + text[: len(stop) - 1]


@dataclass(frozen=True)
class Round:
    """Rollouts of one state, all of a round: ``prefix`` is the response's text up to there."""

    question_id: str
    state: int
    prefix: str
    gold: str
    generations: tuple[Generation, ...]


class RolloutJudge:
    """``submit`` rounds, ``results`` gives them back judged, in the order they came; on a thread of its own. A context
    manager."""

    def __init__(self, policy: Policy, stops: Sequence[str], *, early_stop: bool) -> None:
        self.border = Border(stops, policy, early_stop=early_stop)
        self._online = OnlineVerifier(policy) if early_stop else None
        self._policy, self._stops = policy, tuple(stops)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="verify")
        self._pending: deque[tuple[Round, Future[list[Rollout]]]] = deque()

    def __enter__(self) -> RolloutJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def submit(self, round_: Round) -> None:
        self._pending.append((round_, self._thread.submit(self.judged, round_)))

    def results(self, wait: bool) -> Iterator[tuple[Round, list[Rollout]]]:
        """With ``wait``, of everything submitted. Raises what the verifier raised."""
        while self._pending and (wait or self._pending[0][1].done()):
            round_, future = self._pending.popleft()
            yield round_, future.result()

    def judged(self, round_: Round) -> list[Rollout]:
        """The round's rollouts by index, each with its reward."""
        drawn = [self._ended(round_.prefix, g) for g in sorted(round_.generations, key=lambda g: g.sample_index)]
        verdicts = verify_batch(
            [(round_.prefix + g.text).lstrip() for g in drawn],
            [round_.gold] * len(drawn),
            self._policy,
            truncated=[g.finish_reason == "length" for g in drawn],
        )
        return [
            Rollout(g.sample_index, g.text, v.correct, v.answer, len(g.token_ids), g.logprob, g.finish_reason)
            for g, v in zip(drawn, verdicts, strict=True)
        ]

    def _ended(self, prefix: str, generation: Generation) -> Generation:
        """Without what was drawn behind the line of the answer or a stop string, and ended there: also where the monitor,
        which did not know of the prefix, let it be drawn on."""
        if self._online is not None:
            line = _last_line(prefix)
            text = self._online.cut(line + generation.text)[len(line) :]
            if text != generation.text:
                generation = replace(generation, text=text, finish_reason=ANSWERED)
        text = cut(prefix + generation.text, self._stops)[len(prefix) :]
        return generation if text == generation.text else replace(generation, text=text, finish_reason="stop")


def _last_line(text: str) -> str:
    return text[text.rfind("\n") + 1 :]
