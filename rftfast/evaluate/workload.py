"""How many tokens a job has: measured from a file of questions or a run directory, with the model's tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rftfast.data.manifest import read_manifest
from rftfast.data.parts import StoredQuestion
from rftfast.data.prompts import Template, exemplars, manifest_template
from rftfast.data.questions import load_questions
from rftfast.data.records import Question
from rftfast.data.run_dir import RunDir
from rftfast.engine.monitor import DrawnPath, Monitor
from rftfast.errors import UserError
from rftfast.evaluate.cost import Paths, Rows
from rftfast.evaluate.run_metrics import read_run_metrics
from rftfast.models.tokenizer import Tokenizer
from rftfast.pipeline.early_stop import OnlineVerifier
from rftfast.verify import Policy

_MEASURED = 256  # questions tokenised
_REPLAYED = 8  # paths of each of them judged anew, as if they were being drawn


@dataclass(frozen=True)
class Workload:
    """Counts, and mean lengths in tokens. Each may be given in place of what was measured."""

    questions: float = 7473
    k: float = 100
    header: float = 0
    """The worked examples of the sampling prompt."""
    prompt: float = 66
    """Without them: the prompt of a training row."""
    solution: float = 130
    """A gold solution with its end."""
    path: float = 130
    """A sampled path with its end, drawn without early stop."""
    saved: float | None = None
    """Share of the paths' tokens that early stop spares."""
    kept: float = 5.25
    """Sampled paths a question in the RFT set."""
    kept_prompt: float | None = None
    """Mean over the RFT set's rows; questions with many paths may be longer. None: as ``prompt``."""
    kept_path: float | None = None
    """Mean over the RFT set's rows, gold solutions among them. None: gold solutions and paths by their numbers."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("header", "saved", "kept") else 1
            if value is not None and not value >= least:
                raise UserError(f"{name} is {value}; use {least} or more")
        if self.saved is not None and self.saved >= 1:
            raise UserError(f"saved is {self.saved}; early stop spares a share below 1")

    @property
    def sft(self) -> Rows:
        return Rows(self.questions, self.prompt, self.solution)

    @property
    def rft(self) -> Rows:
        """Gold solutions and kept paths."""
        mean = (self.solution + self.kept * self.path) / (1 + self.kept)
        completion = self.kept_path if self.kept_path is not None else mean
        prompt = self.kept_prompt if self.kept_prompt is not None else self.prompt
        return Rows(self.questions * (1 + self.kept), prompt, completion)

    def paths(self, *, early_stop: bool = False) -> Paths:
        assert not early_stop or self.saved is not None
        drawn = self.path * (1 - (self.saved or 0.0)) if early_stop else self.path
        return Paths(self.questions, self.k, self.header, self.prompt, drawn)


GSM8K = Workload()
"""GSM8K's training set as arXiv 2308.01825 has it: lengths of appendix E, k = 100, the 7B model's distinct paths (Table 1)."""


def from_questions(
    source: str | None, tokenizer: Tokenizer, template: Template, shots: int | None, base: Workload = GSM8K
) -> Workload:
    """Number of questions, and lengths of prompts and gold solutions; ``base`` for the rest, a path being taken for as
    long as a solution. ``source`` as in ``data.questions.load_questions``."""
    questions = load_questions(source)
    measured = _evenly(questions, _MEASURED)
    given = exemplars(template.shots if shots is None else shots)
    count = _Counter(tokenizer, template)
    prompt = _mean(count.prompt(q.question) for q in measured)
    solution = _mean(count.solution(q.answer) for q in measured)
    return replace(
        base,
        questions=len(questions),
        header=count.header(given),
        prompt=prompt,
        solution=solution,
        path=solution,
    )


def from_run(path: str | Path, tokenizer: Tokenizer) -> Workload:
    """Everything, of a run made with this tokenizer; token counts of paths are those stored.

    What early stop spares is measured by ending stored paths where it would have ended them, or, of a run that had it,
    taken from the run's own estimate. Raises UserError as ``RunDir.read_questions``.
    """
    config: dict[str, Any] = read_manifest(Path(path))["config"]
    count = _Counter(tokenizer, manifest_template(config["prompt"]))
    stopped = bool(config.get("early_stop"))
    monitor = OnlineVerifier(Policy.of_run(config))
    stored = sum(1 for _ in RunDir.read_questions(path))
    stride = max(1, stored // _MEASURED)
    samples = tokens = kept = kept_tokens = 0
    prompts: list[tuple[float, int]] = []
    solutions: list[float] = []
    drawn = ended = 0.0
    for i, question in enumerate(RunDir.read_questions(path)):
        samples += len(question.samples)
        tokens += sum(s["tokens"] for s in question.samples)
        chosen = [s["tokens"] for s in question.samples if s["kept"]]
        kept += len(chosen)
        kept_tokens += sum(chosen)
        if i % stride == 0:
            prompts.append((count.text(question.prompt), 1 + len(chosen)))
            solutions.append(count.solution(question.begin + question.gold))
            if not stopped:
                for length, share in _replayed(question, monitor):
                    drawn += length
                    ended += length * share
    if not samples:
        raise UserError(f"{path}: no sample is stored yet; let 'rftfast sample' run on")
    mean_path = tokens / samples
    saved = _saved_by_run(Path(path)) if stopped else 1 - ended / drawn if drawn else 0.0
    solution = _mean(solutions)
    rows = stored + kept
    return Workload(
        questions=stored,
        k=samples / stored,
        header=count.header([Question("", s["question"], s["answer"]) for s in config.get("shots") or ()]),
        prompt=_mean(length for length, _ in prompts),
        solution=solution,
        path=mean_path / (1 - (saved or 0.0)) if stopped else mean_path,
        saved=saved,
        kept=kept / stored,
        kept_prompt=sum(length * n for length, n in prompts) / sum(n for _, n in prompts),
        kept_path=(stored * solution + kept_tokens) / rows,
    )


class _Counter:
    """Lengths in tokens, as the sampler and the trainer have them."""

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        self._tokenizer, self._template = tokenizer, template

    def text(self, text: str) -> int:
        """A rendered prompt."""
        return len(self._tokenizer.encode(text, add_special=not self._template.chat))

    def prompt(self, question: str, shots: Sequence[Question] = ()) -> int:
        if self._template.chat:
            return self.text(self._tokenizer.chat(self._template.messages(question, shots)))
        return self.text(self._template.render(question, shots))

    def header(self, shots: Sequence[Question]) -> int:
        """What ``shots`` add to a prompt."""
        return self.prompt("How many?", shots) - self.prompt("How many?") if shots else 0

    def solution(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special=False)) + 1  # and its end


def _replayed(question: StoredQuestion, monitor: Monitor) -> Iterable[tuple[int, float]]:
    """Of some paths, tokens and the share of the text that is there when early stop ends them."""
    for sample in _evenly(question.samples, _REPLAYED):
        text = sample["completion"]
        yield sample["tokens"], stopped_at(text, monitor) / len(text) if text else 1.0


def stopped_at(text: str, monitor: Monitor) -> int:
    """How many characters of ``text`` have been drawn when ``monitor`` ends it; all of them if it does not."""
    triggers = monitor.triggers.decode()
    pieces, start = [], 0
    for at, character in enumerate(text, start=1):
        if character in triggers:
            pieces.append(text[start:at].encode(errors="replace"))
            start = at
    drawn = 0
    for i, piece in enumerate(pieces):
        drawn += len(piece.decode())
        if monitor(DrawnPath("", 0, pieces, range(i + 1))) is not None:
            return drawn
    return len(text)


def _saved_by_run(path: Path) -> float | None:
    """From ``metrics.jsonl``: tokens spared and drawn, of each process the last it wrote. None where it does not say."""
    spared = drawn = 0.0
    last: dict[str, Any] = {}

    def settle() -> None:
        nonlocal spared, drawn
        spared += last.get("stop_saved_tokens", 0)
        drawn += last.get("tokens", 0)

    for row in read_run_metrics(path):
        if row.get("event") in ("start", "resume"):
            settle()
            last = {}
        elif "tokens" in row:
            last = row
    settle()
    return spared / (spared + drawn) if drawn else None


def _evenly(items: Sequence[Any], most: int) -> Sequence[Any]:
    return items[:: max(1, len(items) // most)][:most]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
