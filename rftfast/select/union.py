"""The paths of several runs and files, pooled question by question and folded again (arXiv 2308.01825, ⊕ in §3.3)."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from rftfast.data.jsonl import STDIN, open_input
from rftfast.data.parts import StoredQuestion
from rftfast.data.path_file import PathFile, PathRow
from rftfast.data.prompts import TEMPLATES, Template, manifest_is_chat
from rftfast.data.records import Question, Verdict
from rftfast.data.run_index import RunIndex
from rftfast.errors import UserError
from rftfast.verify import Policy, cut, extract_answer, find_equations, parse_gold, verify, verify_batch
from rftfast.verify.math import final_answer
from rftfast.verify.numbers import canonical


@dataclass(frozen=True)
class Candidate:
    """One sampled path with its verdict; ``completion`` is its text as a training row has it."""

    text: str
    completion: str
    model: str
    sample_index: int
    verdict: str
    answer: str | None
    equations: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Right answer, right equations."""
        return self.verdict == "correct"

    @property
    def right_answer(self) -> bool:
        """The final answer is right, whatever the equations."""
        return self.accepted or (self.verdict == "wrong_equation" and self.answer is not None)


@dataclass(frozen=True)
class PooledQuestion:
    """A question with the paths of all sources in fold order: by source, model and sample index.

    ``answer`` is the gold answer as given (a solution or the bare number), None where no source tells it; ``gold`` the
    gold solution with its ``gold_equations``, None where only its number is known; ``user`` the question
    as a chat's user message has it, ``system`` the chat's system message, if it has one. ``prompt`` and ``user`` are None where no
    source tells them.
    """

    id: str
    prompt: str | None
    user: str | None
    begin: str
    answer: str | None
    gold: str | None
    gold_equations: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    system: str = ""


class Pool:
    """Run directories and JSONL files, opened together; a context manager that iterates over their questions.

    Questions come in the order of the first run that has them, those of files alone behind them, by id. So nothing
    depends on the order in which samples were drawn or rows were written, except for rows without ``sample_index``: of
    those the order in the file is the order of the samples (``unnumbered`` counts them).

    ``questions`` (by id) tell what a source may lack: a question's text and gold solution. ``template`` renders prompts
    for files that have questions and no prompts. ``policy`` judges rows that have a gold answer and no verdict; the
    verdicts of runs, and those in files, stand; rows with neither are taken as accepted (``unjudged`` counts them).
    ``stops`` cut the rows of files before that. ``names_models`` says whether training rows should name their model: not
    those of a single run.

    Memory: an index of all questions, and one question with its paths.

    Raises:
        UserError: a source that cannot be read, or (while iterating) a row that cannot be used.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        policy: Policy = Policy(),
        stops: Sequence[str] = (),
        questions: Sequence[Question] = (),
        template: Template = TEMPLATES["gsm8k"],
    ) -> None:
        if not sources:
            raise UserError("no source is named: give a run directory or a JSONL file")
        for name, count in Counter(str(Path(source)) for source in sources).items():
            if count > 1:
                raise UserError(f"{name} is named {count} times; name each source once")
        self._policy, self._stops, self._template = policy, tuple(stops), template
        self._questions = {question.id: question for question in questions}
        self._sources: list[_Run | _File] = []
        self._open_files = contextlib.ExitStack()
        self.unnumbered = 0
        self.unjudged = 0
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._open_files)
            for source in sources:
                self._sources.append(self._open(source))
            self._open_files = undo.pop_all()
        names = Counter(source.model for source in self._sources)
        for each in self._sources:
            if isinstance(each, _File):
                each.model = Path(each.name).name if len(self._sources) > 1 else ""
            elif names[each.model] > 1:
                each.model = f"{each.model} ({each.name})"
        self.names_models = len(self._sources) > 1 or isinstance(self._sources[0], _File)
        self._order = self._ordered()

    def _open(self, source: str) -> _Run | _File:
        if source != STDIN and Path(source).is_dir():
            return _Run(RunIndex(source))
        file, name = self._open_files.enter_context(open_input(source, seekable=True))
        return _File(PathFile(file, name))

    def _ordered(self) -> list[str]:
        found: dict[str, None] = {}
        for source in self._sources:
            if isinstance(source, _Run):
                found.update(dict.fromkeys(source.index.order))
        ids = {name for source in self._sources if isinstance(source, _File) for name in source.file.ids()}
        found.update(dict.fromkeys(sorted(ids - found.keys(), key=_natural)))
        return list(found)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open_files.close()

    def __len__(self) -> int:
        """How many questions."""
        return len(self._order)

    def __iter__(self) -> Iterator[PooledQuestion]:
        for name in self._order:
            yield self._pooled(name)

    @property
    def models(self) -> list[str]:
        """The runs' models in fold order; the models that files name turn up with their rows."""
        return [source.model for source in self._sources if isinstance(source, _Run)]

    def _pooled(self, name: str) -> PooledQuestion:
        facts = _Facts(name)
        if (known := self._questions.get(name)) is not None:
            facts.answer(known.answer, "the questions file", self._policy)
            facts.question = known.question
        candidates: list[Candidate] = []
        for source in self._sources:
            if isinstance(source, _Run) and name in source.index:
                candidates.extend(source.candidates(source.index.read(name), facts))
            elif isinstance(source, _File) and name in source.file:
                candidates.extend(self._from_file(source, source.file.read(name), facts))
        if facts.prompt is None and facts.question is not None and not self._template.chat:
            facts.prompt, facts.begin = self._template.render(facts.question), self._template.begin
        if (begin := facts.begin) is not None:
            candidates = [
                c
                if c.completion.startswith(begin) and c.completion[len(begin) :] == c.text.lstrip()
                else replace(c, completion=begin + c.text.lstrip())
                for c in candidates
            ]
        elif facts.gold_begin is not None:
            begin = facts.gold_begin
        else:  # as the paths themselves begin
            first = candidates[0].completion if candidates else ""
            begin = first[: len(first) - len(first.lstrip())]
        policy = next((source.policy for source in self._sources if isinstance(source, _Run)), self._policy)
        equations = _equations(facts.gold, policy) if facts.gold is not None else ()
        user, system = facts.user(self._sources)
        paths = tuple(candidates)
        return PooledQuestion(name, facts.prompt, user, begin, facts.number, facts.gold, equations, paths, system)

    def _from_file(self, source: _File, rows: list[PathRow], facts: _Facts) -> list[Candidate]:
        for row in rows:
            if row.gold:
                facts.answer(row.text, row.where, self._policy, solution=True)
                facts.gold_begin = row.text[: len(row.text) - len(row.text.lstrip())]
            if row.answer is not None:
                facts.answer(row.answer, row.where, self._policy)
            facts.question = facts.question if facts.question is not None else row.question
            facts.prompt = facts.prompt if facts.prompt is not None else row.prompt
        paths = [row for row in rows if not row.gold]
        found = []
        for row, verdict in zip(paths, self._verdicts(paths, facts), strict=True):
            index = row.sample_index
            if index is None:
                index = row.place
                self.unnumbered += 1
            text = cut(row.text, self._stops)
            model = row.model or source.model
            found.append(Candidate(text, text, model, index, verdict.verdict, verdict.answer, verdict.equations))
        return sorted(found, key=lambda c: (c.model, c.sample_index))

    def _verdicts(self, rows: list[PathRow], facts: _Facts) -> list[Verdict]:
        """Those in the file; the others are made, all at once."""
        texts = [cut(row.text, self._stops) for row in rows]
        golds = [row.answer if row.answer is not None else facts.number for row in rows]
        verdicts: dict[int, Verdict] = {}
        for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
            if row.verdict is not None:
                equations = row.equations if row.equations is not None else tuple(find_equations(text))
                verdicts[i] = Verdict(row.verdict, row.parsed_answer, equations)
            elif golds[i] is None:
                self.unjudged += 1
                verdicts[i] = Verdict("correct", _shown(text, self._policy), _equations(text, self._policy))
        due = [(i, gold) for i, gold in enumerate(golds) if i not in verdicts and gold is not None]
        cut_off = [rows[i].truncated for i, _ in due]
        try:
            made = verify_batch([texts[i] for i, _ in due], [g for _, g in due], self._policy, truncated=cut_off)
        except UserError:
            for i, gold in due:  # which gold is it that cannot be read?
                where = rows[i].where if rows[i].answer is not None else f"{facts.number_from}, question {facts.id!r}"
                try:
                    verify("", gold, self._policy)
                except UserError as error:
                    raise UserError(f"{where}: {error}") from None
            raise
        verdicts.update((i, verdict) for (i, _), verdict in zip(due, made, strict=True))
        return [verdicts[i] for i in range(len(rows))]


class _Run:
    """A run directory among the sources."""

    def __init__(self, index: RunIndex) -> None:
        self.index = index
        self.name = str(index.path)
        notes = index.manifest.get("notes")
        named = notes.get("model") if isinstance(notes, dict) else None
        self.model = Path(named).name.removesuffix(".gguf") if isinstance(named, str) and named else self.name
        config: dict[str, Any] = index.manifest["config"]
        self.policy = Policy.of_run(config)
        prompt = config.get("prompt")
        self.template: dict[str, Any] = prompt if isinstance(prompt, dict) else {}

    def candidates(self, stored: StoredQuestion, facts: _Facts) -> Iterator[Candidate]:
        facts.answer(stored.gold, self.name, self.policy, solution=not stored.answer_only)
        if facts.prompt is None:
            facts.prompt, facts.begin = stored.prompt, stored.begin
            facts.question = facts.question or self._question(stored.prompt)
        begin = facts.begin if facts.begin is not None else stored.begin
        for row in sorted(stored.samples, key=lambda row: row["sample_index"]):
            text = row["completion"]
            yield Candidate(
                text,
                begin + text.lstrip(),
                self.model,
                row["sample_index"],
                row["verdict"],
                row.get("answer"),
                tuple(row.get("equations") or ()),
            )

    def _question(self, prompt: str) -> str | None:
        """The question's text, taken out of a prompt that was rendered without shots."""
        text = self.template.get("text")
        if not isinstance(text, str) or text.count("{question}") != 1:
            return None
        before, after = text.replace("{shots}", "").split("{question}")
        if not (prompt.startswith(before) and prompt.endswith(after) and len(prompt) > len(before) + len(after)):
            return None
        if self.chat:
            return None  # the model's own chat template is around it
        return prompt[len(before) : len(prompt) - len(after)]

    @property
    def chat(self) -> bool:
        return manifest_is_chat(self.template)


class _File:
    """A JSONL file among the sources."""

    def __init__(self, file: PathFile) -> None:
        self.file = file
        self.name = file.name
        self.model = ""


class _Facts:
    """What the sources say of one question; they must not contradict one another."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.prompt: str | None = None
        self.begin: str | None = None  # what the source of the prompt sets before every completion
        self.gold_begin: str | None = None  # what a file's own gold row begins with
        self.question: str | None = None
        self.gold: str | None = None
        self.number: str | None = None
        self.number_from = ""
        self._from = ""

    def answer(self, text: str, where: str, policy: Policy, *, solution: bool = False) -> None:
        """Take note of a gold answer: a solution (text with an answer behind a marker in it) or the bare answer."""
        if self.number is None:
            self.number, self.number_from = text, where
        told = solution or _shown(text, policy) is not None
        if told or final_answer(text, policy.marker, policy.markers) is not None:
            if self.gold is None:
                self.gold, self._from = text.strip(), where
            elif self.gold != text.strip():
                raise self._contrary("solution", where, self._from)
        if _differ(text, self.number, policy):
            raise self._contrary("answer", where, self.number_from)

    def _contrary(self, what: str, where: str, earlier: str) -> UserError:
        return UserError(
            f"{where}: question {self.id!r} has another gold {what} in {earlier}; "
            "pool runs and files of the same questions only"
        )

    def user(self, sources: list[_Run | _File]) -> tuple[str | None, str]:
        """The question as a chat's user message has it: of a run with a chat template, in that template's words; and its system
        message."""
        first = next((source for source in sources if isinstance(source, _Run)), None)
        if self.question is None or first is None or not first.chat:
            return self.question, ""
        return str(first.template["text"]).replace("{question}", self.question), str(first.template.get("system", ""))


def _equations(text: str, policy: Policy) -> tuple[str, ...]:
    """A text's equations under ``policy``, its answer being whatever it is."""
    return verify(text, "0", replace(policy, math=False)).equations


def _shown(text: str, policy: Policy) -> str | None:
    """A text's answer under ``policy``, as a verdict has it."""
    if policy.math:
        answer = final_answer(text, policy.marker, policy.markers)
        return None if answer is None else answer.shown
    number = extract_answer(text, policy.marker, policy.markers)
    return None if number is None else canonical(number)


def _differ(a: str, b: str, policy: Policy) -> bool:
    """Whether two gold answers are different numbers; what is none (LaTeX), or stands behind a marker that does not count here,
    is not compared."""
    if a == b:
        return False
    try:
        return parse_gold(a, policy.marker, policy.markers) != parse_gold(b, policy.marker, policy.markers)
    except UserError:
        return False


def _natural(name: str) -> tuple[int, int, str]:
    """Ids that are numbers by their value, then the others."""
    return (0, int(name), name) if name.isdecimal() and name.isascii() and len(name) < 20 else (1, 0, name)
