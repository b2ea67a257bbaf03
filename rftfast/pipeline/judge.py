"""Verification beside the engine: a question's paths are judged as one batch, on a thread of its own.

The native verifier holds no GIL and math-verify works in other processes, so the engine does not wait for either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from rftfast.data.records import Completion, Question, Verdict
from rftfast.engine.params import Generation
from rftfast.pipeline.early_stop import ANSWERED, OnlineVerifier, judged
from rftfast.pipeline.job import Job
from rftfast.verify import verify_batch

Judged = tuple[str, list[Completion], list[Verdict]]


class Judge:
    """``submit`` paths, ``results`` gives them back with their verdicts, in the order they came. A context manager."""

    def __init__(self, job: Job) -> None:
        self.online = OnlineVerifier(job.policy)
        self._job = job
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="verify")
        self._pending: deque[Future[Judged]] = deque()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    @property
    def busy(self) -> bool:
        """Whether something was submitted that ``results`` has not given back."""
        return bool(self._pending)

    def submit(self, question: Question, generations: Sequence[Generation]) -> None:
        """Paths of one question."""
        self._pending.append(self._thread.submit(self._judge, question, generations))

    def results(self, wait: bool) -> Iterator[Judged]:
        """(question id, completions, verdicts) of what has been judged; with ``wait``, of everything submitted.

        Raises what the verifier raised.
        """
        while self._pending and (wait or self._pending[0].done()):
            yield self._pending.popleft().result()

    def _judge(self, question: Question, generations: Sequence[Generation]) -> Judged:
        completions = [self._completion(question, generation) for generation in generations]
        verdicts = verify_batch(
            [c.text for c in completions],
            [question.answer] * len(completions),
            self._job.policy,
            truncated=[c.finish_reason == "length" for c in completions],
        )
        verdicts = [judged(v, c.finish_reason) for v, c in zip(verdicts, completions, strict=True)]
        return question.id, completions, verdicts

    def _completion(self, question: Question, generation: Generation) -> Completion:
        text = generation.text
        if generation.finish_reason == ANSWERED:
            text = self.online.cut(text)
        return Completion(
            question.id,
            generation.sample_index,
            self._job.template.clean(text),
            generation.token_ids,
            generation.logprob,
            generation.finish_reason,
        )
