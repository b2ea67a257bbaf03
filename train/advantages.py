"""Advantage-filtered fine-tuning: loss on the steps that help alone, given what stands before them.

L = −Σ 1[A(s_i, a_i) > 0] · log π(a_i | s_i), over responses right and wrong (arXiv 2406.14532 and its authors' lecture); the
values come from ``rftfast rollout``. Nothing is learned of a step that did not raise the chance of the right answer: neither
its tokens nor, where it is the last one, the end of the response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rftfast.data.jsonl import text_in
from rftfast.data.manifest import RUN_FILE
from rftfast.data.prompts import Template, load_template
from rftfast.data.readers import Table, read_table
from rftfast.errors import UserError
from rftfast.train import job
from rftfast.train.config import RftConfig, TrainConfig
from rftfast.train.documents import Document, documents
from rftfast.train.examples import Example, check_writable, example_of, filled, named_apart, stored_template
from rftfast.train.fitting import check_fits, short_enough
from rftfast.train.job import Job, check_folder, told_template
from rftfast.train.model import open_base
from rftfast.train.preference_steps import Span, spans_of, weighted
from rftfast.train.validation import validation_documents

STEPS_FILE = "steps.jsonl"
_ROLLOUTS = "rollouts"


@dataclass(frozen=True)
class Valued:
    """A response with its steps, each of weight 1 where it is to be learned and 0 where it is not."""

    example: Example
    ends: bool
    spans: tuple[Span, ...]
    unknown: int = 0
    """Steps whose advantage was not estimated, which are not learned."""

    @property
    def learned(self) -> int:
        return sum(span.weight > 0 for span in self.spans)


def prepare(config: TrainConfig, method: str) -> Job:
    """Read and check everything but the weights; without ``step_advantages`` as for any supervised training.

    Raises:
        UserError: a bad model, data, template or folder, documents that are too long, or not one step to learn.
    """
    assert isinstance(config, RftConfig)
    if not config.step_advantages:
        return job.prepare(config, method)
    check_folder(Path(config.out))
    base = open_base(config.model)
    file = steps_file(config.data)
    template = _template(config, file)
    responses = read_valued(file, rendered=template is not None and template.chat)[: config.limit]
    template = template or told_template([response.example for response in responses])
    kept = [response for response in responses if response.learned]
    if not kept:
        raise UserError(f"{file}: not one step has an advantage above 0; roll out more responses")
    whole = documents([response.example for response in kept], base.tokenizer, eos_id=base.eos_id)
    vocabulary = base.tokenizer.token_bytes()
    found = [
        weighted(document, response.example.completion, response.spans, vocabulary, ends=response.ends)
        for document, response in zip(whole, kept, strict=True)
    ]
    short: Sequence[Document] = short_enough(found, config)
    check_fits(short, base, config)
    stored = None if template is None else replace(template, shots=0, stop=())
    held_out, told = validation_documents(config, base, template, short)
    notes = [_counted(responses, kept), *told]
    if template is None:
        notes.append("how the prompts were made is not known, so no template is stored with the model (--prompt)")
    return Job(config, method, base, stored, tuple(short), tuple(notes), held_out)


def steps_file(data: str) -> Path:
    """The file of steps that ``data`` (a file, a directory of rollouts, or the run it lies in) is or holds."""
    path = Path(data).expanduser()
    if not path.is_dir():
        return path
    for folder in (path, path / _ROLLOUTS):
        if (folder / STEPS_FILE).is_file():
            return folder / STEPS_FILE
    raise UserError(f"{path}: no {STEPS_FILE} in it; write it with: rftfast rollout RUN")


def read_valued(file: str | Path, *, rendered: bool = False) -> list[Valued]:
    """Responses in the order of their file, with ``prompt``, ``completion``, ``complete`` and ``steps`` (``start``, ``end``,
    ``advantage``). A row without ``steps`` is learned whole.

    Raises:
        UserError: a row that is none, with its line and the mend.
    """
    table = read_table(file)
    found = [_valued(table, where, row, rendered) for where, row in table.rows]
    if not any(response.spans for response in found):
        raise UserError(
            f"{table.source}: no row has steps; leave --step-advantages out, or name a directory of rollouts"
        )
    named = named_apart([response.example for response in found])
    return [
        replace(response, example=example, spans=response.spans or (Span(0, len(example.completion), 1.0),))
        for response, example in zip(found, named, strict=True)
    ]


def _valued(table: Table, where: str, row: dict[str, Any], rendered: bool) -> Valued:
    place = f"{table.source}, {where}"
    prompt = text_in(row, ("prompt",), place)
    check_writable(prompt, "prompt", place)
    completion = filled(text_in(row, ("completion",), place), "completion", place)
    spans = spans_of(row, "steps", completion, 0, place)
    advantages = [step.get("advantage") for step in row.get("steps") or ()]
    for number, advantage in enumerate(advantages, start=1):
        if advantage is not None and (isinstance(advantage, bool) or not isinstance(advantage, (int, float))):
            raise UserError(
                f"{place}: step {number}: 'advantage' is {advantage!r}; write a number, or null where not known"
            )
    return Valued(
        example_of(row, prompt, completion, rendered),
        row.get("complete") is not False,
        tuple(
            replace(span, weight=float(advantage is not None and advantage > 0))
            for span, advantage in zip(spans, advantages, strict=True)
        ),
        sum(advantage is None for advantage in advantages),
    )


def _template(config: TrainConfig, file: Path) -> Template | None:
    """That of the run which the rollouts lie in, or the one that was named."""
    given = None if config.prompt is None else load_template(config.prompt)
    above = file.absolute().parents[:2]  # a relative path may begin below the run
    run = next((f for f in above if (f / RUN_FILE).is_file() and (f / "samples").is_dir()), None)
    stored = None if run is None else stored_template(run)
    if stored is not None and given is not None and not given.asks_as(stored):
        raise UserError(f"{run} was sampled with the template {stored.name}, not {config.prompt}; leave --prompt out")
    return stored or given


def _counted(responses: Sequence[Valued], kept: Sequence[Valued]) -> str:
    steps = sum(len(response.spans) for response in responses)
    learned = sum(response.learned for response in responses)
    unknown = sum(response.unknown for response in responses)
    return (
        f"{learned:,} of {steps:,} steps are learned, out of {len(kept):,} of {len(responses):,} responses"
        + f"; {unknown:,} steps have no known advantage" * (unknown > 0)
    )
