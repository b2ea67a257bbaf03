"""The run directory: everything a sampling run has found out, safe against being killed at any moment.

::

    run.json                  resolved configuration, fingerprints, versions
    samples/part-00000.jsonl  whole questions with all their samples (see :mod:`rftfast.data.parts`)
    rft.jsonl                 training rows: gold and kept paths, derived from the parts
    metrics.jsonl             one line of figures at a time
    logs/

The parts are the truth. Each is written under a temporary name, forced to the disk and renamed, so a question is either
there with all its samples or not there at all, and a run that goes on samples just those that are not there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rftfast.data.atomic import mend_lines, remove_temporary, write_atomic, write_errors
from rftfast.data.held_dir import METRICS_FILE, HeldDir
from rftfast.data.lock import RunLock
from rftfast.data.manifest import check_folder, open_manifest, read_manifest
from rftfast.data.parts import StoredQuestion, finished_question, part_number, part_path, part_paths, read_part
from rftfast.data.records import Completion, Question, Verdict
from rftfast.data.rft_file import RftFile
from rftfast.errors import UserError


class RunDir(HeldDir):
    """A run directory opened for writing, by one process and from one thread. Built by :meth:`open`; a context manager."""

    path: Path
    logs: Path
    resumed: bool

    def __init__(
        self, path: Path, lock: RunLock, *, token_ids: bool, policy: tuple[int, float], clock: Callable[[], float]
    ) -> None:
        super().__init__(path, lock)
        self.logs = path / "logs"
        self.resumed = False
        self._samples = path / "samples"
        self._token_ids = token_ids
        self._commit_questions, self._commit_seconds = policy
        self._clock = clock
        self._stored: dict[str, tuple[str, Counter[str]]] = {}  # question id -> its part's name, its figures
        self._buffer: dict[str, tuple[StoredQuestion, bytes]] = {}  # finished, not yet in a part
        self._buffer_since = 0.0
        self._next_part = 0
        self._rft: RftFile

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        fingerprints: Mapping[str, Any],
        versions: Mapping[str, Any],
        *,
        notes: Mapping[str, Any] | None = None,
        token_ids: bool = False,
        commit_questions: int = 16,
        commit_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> RunDir:
        """Create a run directory, or go on with an existing one of the same ``config`` and ``fingerprints``.

        Args:
            path: the folder; parents are made.
            config: what decides the run's content. Compared with what the folder was made with, field by field.
            fingerprints: hashes of the model, the tokenizer and the questions. Compared as well.
            versions: of packages. Recorded, not compared, as are ``notes`` (threads, memory limits, batch sizes).
            token_ids: store the token ids of each sample, which makes parts about three times as large.
            commit_questions: a part is written when so many finished questions wait,
            commit_seconds: or when the first of them has waited so long and another comes.
            clock: seconds, for the former.

        Raises:
            UserError: another configuration, another process at work, a folder of something else, a damaged part, a question
                in two parts, or a disk that refuses.
        """
        assert commit_questions >= 1, commit_questions
        assert commit_seconds >= 0, commit_seconds
        path = Path(path)
        with write_errors(path):
            check_folder(path)
            path.mkdir(parents=True, exist_ok=True)
        lock = RunLock(path)
        run = cls(path, lock, token_ids=token_ids, policy=(commit_questions, commit_seconds), clock=clock)
        try:
            with write_errors(path):
                run._samples.mkdir(exist_ok=True)
                run.logs.mkdir(exist_ok=True)
            remove_temporary(path)
            remove_temporary(run._samples)
            run.resumed = open_manifest(path, config, fingerprints, versions, notes or {})
            run._load()
            mend_lines(path / METRICS_FILE)
            run.metrics({"event": "resume" if run.resumed else "start", "versions": versions, "notes": notes or {}})
        except BaseException:
            lock.release()
            raise
        return run

    def done(self) -> set[str]:
        """Ids of the questions that are stored in parts; those are not to be sampled again."""
        return set(self._stored)

    def add(
        self,
        question: Question,
        completions: Sequence[Completion],
        verdicts: Sequence[Verdict],
        kept: Sequence[int],
        *,
        prompt: str,
        begin: str = "",
        answer_only: bool = False,
    ) -> None:
        """Hand in a finished question: all its completions, in any order, each with its verdict.

        Args:
            kept: the sample indices of the selected paths.
            prompt: the prompt of the training rows (it need not be the one sampled from).
            begin: what stands between prompt and solution in the training rows (``Template.begin``).
            answer_only: the gold answer is no solution, so it becomes no training row.

        Raises:
            UserError: a part was due and could not be written; the question stays in memory and :meth:`commit` may be
                called again.
        """
        assert question.id not in self._stored, f"{question.id} is stored already"
        assert question.id not in self._buffer, f"{question.id} was handed in already"
        stored = finished_question(
            question,
            completions,
            verdicts,
            kept,
            prompt=prompt,
            begin=begin,
            token_ids=self._token_ids,
            answer_only=answer_only,
        )
        if not self._buffer:
            self._buffer_since = self._clock()
        self._buffer[question.id] = stored, stored.part_rows()
        waited = self._clock() - self._buffer_since
        if len(self._buffer) >= self._commit_questions or waited >= self._commit_seconds:
            self.commit()

    def commit(self) -> None:
        """Write the questions that wait as one part and add their rows to ``rft.jsonl``; nothing waiting, nothing done.

        May be called again after any error or interrupt, wherever it fell.

        Raises:
            UserError: the disk is full or refuses; no half part is left behind.
        """
        # An interrupt may have fallen between the renaming of a part and its entry below: the disk knows.
        while (path := part_path(self._samples, self._next_part)).exists():
            self._enter(path, list(read_part(path)))
        if self._buffer:
            write_atomic(path, [rows for _, rows in self._buffer.values()])
            self._enter(path, [stored for stored, _ in self._buffer.values()])

    def finish(self, order: Sequence[str]) -> None:
        """Store what waits and put ``rft.jsonl`` into ``order`` (question ids), so that its bytes depend on content alone.

        Raises:
            UserError: the disk is full or refuses; the file is then as it was.
        """
        self.commit()
        self._rft.reorder(order)

    def summary(self) -> dict[str, Any]:
        """Figures over all stored questions; see :func:`summarize`."""
        return _summary(counts for _, counts in self._stored.values())

    @staticmethod
    def read_samples(path: str | Path) -> Iterator[dict[str, Any]]:
        """All sample rows of a run directory, part by part; of a run at work, those stored so far.

        Raises:
            UserError: not a run directory, or a damaged part.
        """
        for question in RunDir.read_questions(path):
            yield from question.samples

    @staticmethod
    def read_questions(path: str | Path) -> Iterator[StoredQuestion]:
        """All stored questions of a run directory with their samples. Raises as :meth:`read_samples`."""
        read_manifest(Path(path))
        for part in part_paths(Path(path) / "samples"):
            yield from read_part(part)

    def _load(self) -> None:
        """Enter all parts and build ``rft.jsonl`` from them."""

        def blocks() -> Iterator[tuple[str, bytes]]:
            for part in part_paths(self._samples):
                for question in read_part(part):
                    if question.id in self._stored:
                        raise UserError(
                            f"{part}: question {question.id!r} is also in {self._stored[question.id][0]}; remove one of"
                            " the two files and run the same command again"
                        )
                    self._stored[question.id] = part.name, _figures(question)
                    yield question.id, question.rft_rows()
                self._next_part = part_number(part) + 1

        self._rft = RftFile(self.path / "rft.jsonl", blocks())

    def _enter(self, part: Path, questions: Sequence[StoredQuestion]) -> None:
        """Take note of a part that is on the disk. Every step may be repeated, as :meth:`commit` promises."""
        for question in questions:
            self._stored[question.id] = part.name, _figures(question)
        self._rft.append([(question.id, question.rft_rows()) for question in questions])
        for question in questions:
            self._buffer.pop(question.id, None)
        self._next_part = part_number(part) + 1


def summarize(path: str | Path) -> dict[str, Any]:
    """Figures over a run directory: ``questions``, ``samples``, ``accepted`` (verdict correct), ``distinct`` (kept paths),
    ``solved`` (questions with an accepted sample), ``tokens``, ``fewest`` and ``most`` (samples of a question) and, under ``verdicts``, how often each verdict was given.
    """
    return _summary(_figures(question) for question in RunDir.read_questions(path))


def _figures(question: StoredQuestion) -> Counter[str]:
    verdicts = Counter(f"verdict {sample['verdict']}" for sample in question.samples)
    counts = Counter(
        questions=1,
        samples=len(question.samples),
        accepted=verdicts["verdict correct"],
        distinct=sum(sample["kept"] for sample in question.samples),
        solved=int(verdicts["verdict correct"] > 0),
        tokens=sum(sample["tokens"] for sample in question.samples),
    )
    return counts + verdicts


def _summary(figures: Iterable[Counter[str]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    samples: set[int] = set()
    for counts in figures:
        total.update(counts)
        samples.add(counts["samples"])
    names = ("questions", "samples", "accepted", "distinct", "solved", "tokens")
    verdicts = {
        name.removeprefix("verdict "): count for name, count in sorted(total.items()) if name.startswith("verdict ")
    }
    spread = {"fewest": min(samples, default=0), "most": max(samples, default=0)}
    return {**{name: total[name] for name in names}, **spread, "verdicts": verdicts}
