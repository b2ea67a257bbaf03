"""A training job: everything that was asked for, read and checked, before weights are loaded or a process group is formed."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from rftfast.data.atomic import write_errors
from rftfast.data.manifest import RUN_FILE, open_manifest, read_manifest
from rftfast.data.prompts import TEMPLATES, Template, load_template, model_template
from rftfast.errors import UserError
from rftfast.train.config import TrainConfig
from rftfast.train.documents import Document, documents
from rftfast.train.examples import Example, read_examples, stored_template
from rftfast.train.fitting import check_fits, repeated, short_enough
from rftfast.train.model import Base, open_base
from rftfast.train.packing import Step, plan_steps
from rftfast.train.validation import validation_documents

# Templates that can be told from the prompts they make.
TELLING = (TEMPLATES["gsm8k"], TEMPLATES["alpaca"])
_NUMBER = re.compile(r"\s*[-+$]{0,2}\d[\d,. /]{0,40}%?\s*")
_OURS = ("checkpoints", "logs", "model", "tensorboard", "wandb", "metrics.jsonl", "stopped.jsonl", "loss.png", RUN_FILE)


@dataclass(frozen=True, eq=False)
class Job:
    """Model, template and documents, resolved. Built by :func:`prepare`."""

    config: TrainConfig
    method: str
    base: Base
    template: Template | None
    """What is stored with the model; None where the data came with prompts and nobody said how they were made."""
    documents: tuple[Document, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    """What the user should know, a line each."""
    validation: tuple[Document, ...] = field(default=(), repr=False)
    """What is not trained on: its loss is measured."""
    unit: ClassVar[str] = "examples"
    """What a step has so many of."""

    @functools.cached_property
    def plan(self) -> tuple[tuple[Step, ...], ...]:
        """The steps of each epoch."""
        return tuple(tuple(self._epoch(number)) for number in range(self.config.epochs))

    def _epoch(self, number: int) -> Iterable[Step]:
        c = self.config
        return plan_steps(
            self.documents,
            budget_tokens=c.row_tokens,
            documents_per_step=c.batch_size,
            seed=c.seed,
            epoch=number,
            paths_together=c.share_prompts,
        )

    @functools.cached_property
    def validation_step(self) -> Step | None:
        """What is not trained on, as one step."""
        if not self.validation:
            return None
        (step,) = plan_steps(
            self.validation,
            budget_tokens=self.config.row_tokens,
            documents_per_step=len(self.validation),
            seed=0,
            epoch=0,
        )
        return step

    @property
    def validation_size(self) -> str:
        """How much that is, in words."""
        return f"{len(self.validation):,} {self.unit}"

    @property
    def count(self) -> int:
        """How much data there is."""
        return len(self.documents)

    @property
    def size(self) -> str:
        """The same in words."""
        return f"{self.count:,} {self.unit}"

    @property
    def step_size(self) -> str:
        """What a step has, in words; with so little data that it is the whole of it, how there would be more steps."""
        if self.count >= self.config.batch_size:
            return f"{self.config.batch_size} {self.unit}"
        return f"{self.size}, which are all there are (a --batch-size below {self.config.batch_size} makes more steps)"

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        planned = sum(len(epoch) for epoch in self.plan)
        return planned if self.config.max_steps is None else min(planned, self.config.max_steps)

    @functools.cached_property
    def useful_tokens(self) -> int:
        """Tokens of all steps, a prompt counted for each document."""
        return sum(step.useful_tokens for step in self.planned())

    def planned(self) -> list[Step]:
        """All steps in order."""
        return [step for epoch in self.plan for step in epoch][: self.steps]

    def open_folder(self) -> bool:
        """Write OUT/run.json, or check that the one there is of the same job. Returns whether it was there.

        Raises:
            UserError: the folder holds something else, or another job (each difference named).
        """
        out = Path(self.config.out)
        check_folder(out)
        with write_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        template = self.template and {
            "text": self.template.prompt,
            "shot": self.template.shot,
            "chat": self.template.chat,
            **({"system": self.template.system} if self.template.system else {}),
        }
        config = {"method": self.method, **self.config.identity(), "template": template}
        notes = {
            name: getattr(self.config, name) for name in ("model", "data", "prompt", "limit", "row_tokens", "dtype")
        }
        if not config.get("step_advantages", True):  # off is as if the option did not exist
            del config["step_advantages"]
        return open_manifest(out, config, self.fingerprints(), _versions(), notes)

    def fingerprints(self) -> dict[str, str]:
        """Hashes of what is trained and on what."""
        return {
            "model": self.base.fingerprint,
            "tokenizer": self.base.tokenizer.fingerprint(),
            "documents": fingerprint(self.documents),
        }


def prepare(config: TrainConfig, method: str) -> Job:
    """Read and check everything but the weights.

    Raises:
        UserError: a bad model, data, template or folder, documents that are too long, or tokens the model has not.
    """
    check_folder(Path(config.out))
    base = open_base(config.model)
    examples, template, notes = _read(config, base)
    found = documents(examples, base.tokenizer, eos_id=base.eos_id)
    kept = short_enough(found, config)
    check_fits(kept, base, config)
    held_out, told = validation_documents(config, base, template, kept)
    stored = None if template is None else replace(template, shots=0, stop=())
    notes = [*notes, *told, *_bare_numbers(examples), *repeated(kept), *_same_model(config, base)]
    return Job(config, method, base, stored, tuple(kept), tuple(notes), held_out)


def fingerprint(found: Sequence[Document]) -> str:
    """Hash (hex) of the documents' ids and tokens, whatever their order."""
    digest = hashlib.blake2b(digest_size=16)
    for document in sorted(found, key=lambda d: d.id):
        digest.update(f"{document.id}\0{document.group}\0{document.prompt_length}\0".encode("utf-8", "surrogatepass"))
        digest.update(document.tokens.astype("<i4").tobytes())
        if document.weights is not None:
            digest.update(document.weights.astype("<f4").tobytes())
    return digest.hexdigest()


def check_folder(out: Path) -> None:
    """Refuse a folder that is neither empty nor a training run's, before anything is written into it."""
    try:
        out.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # made later, or refused then
    except (
        OSError,
        ValueError,
    ) as error:  # a name too long for a folder, one with a NUL byte, a folder above it that is closed
        raise UserError(
            f"--out {out}: no folder can have that name ({getattr(error, 'strerror', None) or error}); choose another --out"
        ) from None
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out")
    if not out.is_dir() or (out / RUN_FILE).exists():
        if (out / "samples").exists():
            raise UserError(f"{out} is the folder of a sampling run; choose another --out")
        return
    foreign = sorted(item.name for item in out.iterdir() if item.name not in _OURS and not item.name.startswith("."))
    if foreign:
        raise UserError(
            f"{out} is not a training run (it holds {foreign[0]}); choose a new or an empty folder as --out"
        )


def _read(config: TrainConfig, base: Base) -> tuple[list[Example], Template | None, list[str]]:
    """The examples, and the template their prompts are made with, as far as it is known."""
    run = stored_template(config.data)
    given = None if config.prompt is None else load_template(config.prompt)
    if run is not None and given is not None and not given.asks_as(run):
        raise UserError(
            f"{config.data} was sampled with the template {run.name}, not {config.prompt}; leave --prompt out"
        )
    template = given or run
    usual = model_template(base.folder) or TEMPLATES["gsm8k"]
    examples = read_examples(config.data, template or usual)[: config.limit]
    if template is None:
        template = told_template(examples, usual)
    else:
        # What a chat template has written already is not taken apart.
        whole = (e for e in examples if not (template.chat and isinstance(e.prompt, str)))
        odd = next((e.id for e in whole if not _has(template, e)), None)
        if odd is not None:
            raise UserError(f"{config.data}: the prompt of {odd} is not made with the template {template.name}")
    if template is None:
        note = "how the prompts were made is not known, so no template is stored with the model (--prompt)"
        if (bare := _bare_chat(examples)) is not None:
            system = f', "system": {json.dumps(bare, ensure_ascii=False)}' if bare else ""
            note += f'; of bare questions as messages it is a file.json with {{"prompt": "{{question}}", "chat": true{system}}}'
        return examples, None, [note]
    return examples, template, []


def _bare_numbers(examples: Sequence[Example]) -> list[str]:
    """It may be meant; a file of questions and final answers is easily taken for one of solutions."""
    bare = sum(_NUMBER.fullmatch(e.completion) is not None for e in examples)
    told = f"{bare:,} of {len(examples):,} completions are a number alone: they teach to answer without reasoning"
    return [told] * bool(bare)


def _bare_chat(examples: Sequence[Example]) -> str | None:
    """The system message (or "") of prompts that are all of one user message behind the same one; None for others."""
    first = examples[0].prompt
    system = first[0]["content"] if not isinstance(first, str) and first[0]["role"] == "system" else ""
    chat = Template("messages", "{question}", chat=True, system=system)
    bare = all(not isinstance(e.prompt, str) and chat.user_text(e.prompt) is not None for e in examples)
    return system if bare else None


def told_template(examples: Sequence[Example], *others: Template) -> Template | None:
    """The template, of ``others`` or a built-in one, that all the prompts show by themselves, if any."""
    return next((t for t in (*others, *TELLING) if all(_has(t, e) for e in examples)), None)


def _has(template: Template, example: Example) -> bool:
    """Whether the example's prompt is ``template``, without shots, around a question."""
    head, tail = template.prompt.replace("{shots}", "").split("{question}", 1)
    prompt = example.prompt
    if template.chat:
        text = None if isinstance(prompt, str) else template.user_text(prompt)
        return text is not None and _around(text, head, tail)
    return isinstance(prompt, str) and not example.rendered and _around(prompt, head, tail)


def _around(text: str, head: str, tail: str) -> bool:
    return text.startswith(head) and text.endswith(tail)


def _same_model(config: TrainConfig, base: Base) -> list[str]:
    """RFT starts from the base model afresh; the paths' own model is seldom what was meant (arXiv 2308.01825, section 2)."""
    folder = Path(config.data)
    folder = folder if folder.is_dir() else folder.parent
    if not (folder / RUN_FILE).is_file() or stored_template(config.data) is None:
        return []
    if read_manifest(folder)["fingerprints"].get("model") != base.fingerprint:
        return []
    return ["this is the model that sampled the paths; the paper trains the base model it came from"]


def _versions() -> dict[str, str]:
    import platform
    from importlib import metadata

    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("rftfast", "torch", "transformers", "tokenizers", "numpy")
    }
