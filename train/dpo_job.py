"""A job on preference pairs: model, template and pairs, read and checked before weights are loaded."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from rftfast.data.manifest import RUN_FILE
from rftfast.data.prompts import Template, load_template, model_template
from rftfast.errors import UserError
from rftfast.models.cache import cache_folder
from rftfast.train.config import TrainConfig
from rftfast.train.dpo_config import PreferenceConfig
from rftfast.train.examples import stored_template
from rftfast.train.fitting import check_fits, short_enough
from rftfast.train.job import TELLING, Job, check_folder
from rftfast.train.model import Base, open_base
from rftfast.train.preference import Preference, read_preferences
from rftfast.train.preference_documents import Pair, completions, fingerprint, pair_documents
from rftfast.train.preference_packing import PairStep, plan_pairs
from rftfast.train.validation import trained_prompts


@dataclass(frozen=True, eq=False)
class PreferenceJob(Job):
    """Model, template and pairs, resolved. Built by :func:`prepare`.

    ``documents`` are the completions of all pairs, ``validation`` those of ``held_out``, which are not trained on.
    """

    pairs: tuple[Pair, ...] = field(repr=False, kw_only=True)
    held_out: tuple[Pair, ...] = field(default=(), repr=False, kw_only=True)
    unit: ClassVar[str] = "pairs"

    @property
    def options(self) -> PreferenceConfig:
        assert isinstance(self.config, PreferenceConfig)
        return self.config

    @property
    def count(self) -> int:
        return len(self.pairs)

    def _epoch(self, number: int) -> Iterable[PairStep]:
        c = self.config
        return plan_pairs(
            self.pairs,
            budget_tokens=c.row_tokens,
            pairs_per_step=c.batch_size,
            seed=c.seed,
            epoch=number,
            pairs_together=c.share_prompts,
        )

    @functools.cached_property
    def validation_step(self) -> PairStep | None:
        """The pairs that are not trained on, as one step; those of a question share their prompt."""
        if not self.held_out:
            return None
        count = len(self.held_out)
        (step,) = plan_pairs(
            self.held_out,
            budget_tokens=self.config.row_tokens,
            pairs_per_step=count,
            seed=0,
            epoch=0,
            pairs_together=count,
            unit="validation pairs",
        )
        return step

    @property
    def validation_size(self) -> str:
        return f"{len(self.held_out):,} pairs"

    def fingerprints(self) -> dict[str, str]:
        return {**super().fingerprints(), "pairs": fingerprint(self.pairs)}

    @property
    def reference_folder(self) -> Path:
        """Where log-probabilities of references are kept."""
        named = self.options.reference
        return cache_folder() / "reference" if named is None else Path(named).expanduser()


def prepare(config: TrainConfig, method: str) -> PreferenceJob:
    """Read and check everything but the weights.

    Raises:
        UserError: a bad model, data, template or folder, pairs that are too long, or tokens the model has not.
    """
    assert isinstance(config, PreferenceConfig)
    check_folder(Path(config.out))
    base = open_base(config.model)
    known = _known_template(config, base)
    rendered = known is not None and known.chat
    preferences = read_preferences(config.data, rendered=rendered)[: config.limit]
    template, notes = _template(config, known, preferences)
    pairs = _pairs(preferences, base, config, "pair")
    held_out: tuple[Pair, ...] = ()
    if config.validation is not None:
        held_out = _pairs(read_preferences(config.validation, rendered=rendered), base, config, "validation pair")
        notes += trained_prompts((p.prompt for p in held_out), (p.prompt for p in pairs), "pair")
    stored = None if template is None else replace(template, shots=0, stop=())
    job = PreferenceJob(
        config,
        method,
        base,
        stored,
        completions(pairs),
        tuple(notes),
        completions(held_out),
        pairs=pairs,
        held_out=held_out,
    )
    assert job.plan  # says now which pairs are too long for a row
    assert not held_out or job.validation_step
    return job


def _pairs(preferences: Sequence[Preference], base: Base, config: PreferenceConfig, unit: str) -> tuple[Pair, ...]:
    """As tokens, those that are too long left out or refused. ``unit``: what messages call them."""
    kept = short_enough(pair_documents(preferences, base.tokenizer, eos_id=base.eos_id), config, unit)
    check_fits(completions(kept), base, config)
    return tuple(kept)


def _known_template(config: PreferenceConfig, base: Base) -> Template | None:
    """The template that was named, or that the pairs' run or the model has."""
    run = _run_template(config.data)
    given = None if config.prompt is None else load_template(config.prompt)
    if run is not None and given is not None and not given.asks_as(run):
        raise UserError(
            f"{config.data} lies in a run with the template {run.name}, not {config.prompt}; leave --prompt out"
        )
    return given or run or model_template(base.folder)


def _run_template(data: str) -> Template | None:
    """Of the sampling run that the file ``data`` lies in; None where it lies elsewhere."""
    folder = Path(data).expanduser().parent
    there = (folder / RUN_FILE).is_file() and (folder / "samples").is_dir()
    return stored_template(folder) if there else None


def _template(
    config: PreferenceConfig, known: Template | None, preferences: Sequence[Preference]
) -> tuple[Template | None, list[str]]:
    """What is to be stored with the model, and what the user should know of it, a line each."""
    if known is not None:
        odd = next((pair.id for pair in preferences if not _has(known, pair)), None)
        if odd is None:
            return known, []
        if config.prompt is not None:
            raise UserError(f"{config.data}: the prompt of {odd} is not made with the template {known.name}")
    found = next((t for t in TELLING if all(_has(t, pair) for pair in preferences)), None)
    if found is not None:
        told = f"the pairs' template is {found.name}, not the model's own ({known and known.name})"
        return found, [told] * (known is not None)
    return None, ["how the prompts were made is not known, so no template is stored with the model (--prompt)"]


def _has(template: Template, pair: Preference) -> bool:
    """Whether the pair's prompt is ``template``, without shots, around a question; steps of an answer may follow.

    What a chat template has written already is not taken apart.
    """
    head, tail = template.prompt.replace("{shots}", "").split("{question}", 1)
    prompt = pair.chosen.example.prompt
    text: str | None
    if not isinstance(prompt, str):
        text = template.user_text(prompt) if template.chat else None
    elif template.chat:
        return True
    else:
        text = prompt
    return text is not None and text.startswith(head) and tail in text[len(head) :]
