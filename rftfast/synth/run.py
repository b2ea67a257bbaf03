"""From asks to kept problems: each problem is asked for, looked at, solved several times, and kept if the solutions agree.

A record of the directory is one problem with all that came of it. Which of the kept ones repeat one another is decided at
the end, in the order of their names, so that it does not depend on who answered first.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rftfast.data.atomic import append_whole, mend_lines, write_errors
from rftfast.data.export import write_jsonl
from rftfast.data.questions import question_hash
from rftfast.data.record_dir import RecordDir, RecordIndex
from rftfast.errors import UserError
from rftfast.synth.agree import agreement
from rftfast.synth.job import SynthJob
from rftfast.synth.prompts import read_problem
from rftfast.synth.teacher import Answer, Ask, Teacher, Usage

PROBLEMS_FILE, DROPPED_FILE, USAGE_FILE = "problems.jsonl", "dropped.jsonl", "usage.jsonl"
KEPT = "kept"
NO_PROBLEM, COPY, CONTAMINATED, DUPLICATE = "no problem", "repeats a given problem", "contaminated", "duplicate"
NO_AGREEMENT, WRONG_EQUATIONS, REFUSED = "no agreement", "wrong equations", "refused"


@dataclass
class Progress:
    """Counts of this process unless they say ``stored``; ``spent`` and ``usage`` are of the whole directory."""

    problems: int
    stored: int
    done: int = 0
    kept: int = 0
    failed: int = 0
    """Problems left undone, as the endpoint failed on them to the last attempt."""
    last_failure: str = ""
    """Why, of the last of them."""
    unasked: int = 0
    """Problems not begun, to stay within the cost."""
    usage: Usage = field(default_factory=Usage)
    spent: float = 0.0


def open_synth(
    job: SynthJob,
    path: Path,
    teacher: Mapping[str, Any],
    fingerprints: Mapping[str, Any],
    versions: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> RecordDir:
    """The job's directory, new or to go on with. ``teacher`` is who is asked; ``notes`` are recorded, not compared."""
    prints = {**job.fingerprints(), **fingerprints}
    return RecordDir.open(path, job.identity(teacher), prints, versions, notes=notes, commit_records=8)


def run(job: SynthJob, teacher: Teacher, directory: RecordDir, report: Callable[[Progress], None]) -> Progress:
    """Asks for what ``directory`` does not hold yet. ``report`` is called after every answer.

    Raises UserError (an endpoint that cannot be used or does not say what a limited cost comes to, a full disk); problems
    finished before it are stored.
    """
    work = _Run(job, directory)
    for answer in teacher.stream(work.asks()):
        work.take(answer)
        report(work.progress)
    directory.commit()
    report(work.progress)
    directory.metrics({"event": "finished", **_metrics(work.progress)})
    return work.progress


class _Run:
    def __init__(self, job: SynthJob, directory: RecordDir) -> None:
        self.job, self.directory = job, directory
        done = directory.done()
        names = job.names()
        self._todo = deque(name for name in names if name not in done)
        self._ready: deque[Ask] = deque()
        self._open: dict[str, dict[str, Any]] = {}
        self._given = job.given()
        mend_lines(directory.path / USAGE_FILE)
        usage = read_usage(directory.path)
        self.progress = Progress(len(names), len(names) - len(self._todo), usage=usage)
        self.progress.spent = job.options.prices.of(usage)

    def asks(self) -> Iterator[Ask | None]:
        while True:
            if self._ready:
                yield self._ready.popleft()
            elif self._todo and self._affordable():
                name = self._todo.popleft()
                shown = [q.id for q in self.job.shown(name)]
                self._open[name] = {"id": name, "shown": shown, "problem": None, "solutions": [], "usage": Usage()}
                yield self.job.problem_ask(name)
            elif self._open:
                yield None
            else:
                self.progress.unasked = len(self._todo)
                return

    def take(self, answer: Answer) -> None:
        p = self.progress
        p.usage += answer.usage
        p.spent = self.job.options.prices.of(p.usage)
        name, _, what = answer.ask.name.partition("/")
        _write_usage(self.directory.path, name, answer.usage)
        draft = self._open[name]
        draft["usage"] += answer.usage
        if answer.failed is not None:
            del self._open[name]
            p.failed += 1
            p.last_failure = answer.failed
        elif answer.refused is not None:
            self._finish(name, REFUSED, answer.refused)
        elif what == "problem":
            self._problem(name, answer)
        else:
            self._solutions(name, answer)
        if answer.usage.unknown and self.job.options.max_cost is not None:
            raise UserError(
                "the endpoint does not say how many tokens an answer took, so --max-cost cannot be kept: leave it out, and ask "
                "for fewer --problems"
            )

    def _problem(self, name: str, answer: Answer) -> None:
        draft = self._open[name]
        text = answer.texts[0]
        problem = None if text.cut else read_problem(text.text)
        draft["problem"] = problem
        if problem is None:
            self._finish(name, NO_PROBLEM, "cut at its length" if text.cut else text.text[:200])
        elif (twin := self._given.twin(problem)) is not None:
            self._finish(name, COPY, f"{twin.name} ({twin.similarity:.2f})")
        elif (overlap := self.job.evaluation.overlap(problem)) is not None:
            self._finish(name, CONTAMINATED, f"{overlap.question_id} (“{overlap.words}”)")
        else:
            self._ready.append(self.job.solution_ask(name, problem))

    def _solutions(self, name: str, answer: Answer) -> None:
        draft, need = self._open[name], self.job.options.agree
        draft["solutions"] = [{"text": t.text.strip(), "cut": t.cut} for t in answer.texts]
        found = agreement(answer.texts, self.job.policy)
        draft |= {"answer": found.answer, "votes": found.votes, "gold": found.good[0] if found.good else None}
        if found.votes < need or found.tied:
            self._finish(name, NO_AGREEMENT, found.votes_of(len(answer.texts)))
        elif len(found.good) < need:
            self._finish(name, WRONG_EQUATIONS, f"{found.votes} solutions agree, {len(found.good)} calculate rightly")
        else:
            self._finish(name, KEPT, "")

    def _finish(self, name: str, status: str, detail: str) -> None:
        draft = self._open.pop(name)
        draft |= {"status": status, "detail": detail, "usage": asdict(draft["usage"])}
        self.directory.add(draft)
        self.progress.done += 1
        self.progress.kept += status == KEPT

    def _affordable(self) -> bool:
        """Whether one more problem may be begun: those under way are counted as dear as the finished ones."""
        most = self.job.options.max_cost
        if most is None:
            return True
        p = self.progress
        finished = p.stored + p.done
        each = p.spent / finished if finished else 0.0
        return p.spent + each * (len(self._open) + 1) <= most


@dataclass
class SynthTotals:
    """What a directory has come to. ``reasons``: how many problems ended how."""

    problems: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)


def write_problems(job: SynthJob, path: Path) -> SynthTotals:
    """Write ``problems.jsonl`` (kept problems, as question files have them) and ``dropped.jsonl`` (the others, and why).

    Both are written whole or not at all, in the order of the problems' names.

    Raises:
        UserError: a damaged record, or a disk that refuses.
    """
    index = RecordIndex(path)
    totals = SynthTotals(usage=read_usage(path))
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    seen = job.given()
    for name in job.names():
        if name not in index:
            continue
        record = index.read(name)
        status, detail = record["status"], record["detail"]
        if status == KEPT and (twin := seen.twin(record["problem"])) is not None:
            status, detail = DUPLICATE, f"{twin.name} ({twin.similarity:.2f})"
        totals.problems += 1
        totals.reasons[status] += 1
        if status != KEPT:
            dropped.append({"name": name, "reason": status, "detail": detail, "question": record["problem"]})
            continue
        seen.add(name, record["problem"])
        solution = record["solutions"][record["gold"]]["text"]
        row = {"id": question_hash(record["problem"]), "question": record["problem"], "answer": solution}
        kept.append({**row, "name": name, "votes": record["votes"], "solutions": len(record["solutions"])})
    totals.kept = len(kept)
    write_jsonl(path / PROBLEMS_FILE, iter(kept))
    write_jsonl(path / DROPPED_FILE, iter(dropped))
    return totals


def _write_usage(path: Path, name: str, usage: Usage) -> None:
    """As soon as it is known: what was paid for stays counted, even where its problem is lost to a kill."""
    append_whole(path / USAGE_FILE, json.dumps({"id": name, **asdict(usage)}).encode() + b"\n")


def read_usage(path: Path) -> Usage:
    """Of all processes that worked in the directory; a line that is being written is passed over."""
    file = path / USAGE_FILE
    with write_errors(file):
        lines = file.read_bytes().split(b"\n") if file.exists() else []
    total = Usage()
    for line in lines[:-1]:
        row = json.loads(line)
        total += Usage(row["requests"], row["input"], row["output"], row["unknown"])
    return total


def _metrics(p: Progress) -> dict[str, Any]:
    return {"problems": p.stored + p.done, "kept": p.kept, "failed": p.failed, **asdict(p.usage), "spent": p.spent}
