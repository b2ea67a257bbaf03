"""Prompt templates: a question and its few-shot examples become one text (or chat messages)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rftfast.data.atomic import write_atomic
from rftfast.data.questions import BUNDLED, load_questions
from rftfast.data.readers import read_text
from rftfast.data.records import Question
from rftfast.errors import UserError

_PLACEHOLDER = re.compile(r"\{(question|answer|shots)\}")
_SHOT = "Question: {question}\nAnswer: {answer}\n\n"
# A base model ends its solution with an empty line and goes on to a question of its own. The second string catches models
# that leave the empty line out. "Question:" alone is no stop: it may stand inside a solution.
_STOP = ("\n\n", "\nQuestion:")
_JSON_KEYS = ("prompt", "shot", "stop", "shots", "chat", "system", "name")
STORED = "rftfast_prompt.json"
"""The file in a model's folder that holds the template the model was trained with."""


@dataclass(frozen=True)
class Template:
    """How a question is put to the model.

    Attributes:
        name: what the template is called in logs and in the run's configuration.
        prompt: the text with ``{question}`` and, for few-shot prompts, ``{shots}``. Other braces stand for themselves.
        shot: one example with ``{question}`` and ``{answer}``; used where ``prompt`` has ``{shots}``.
        stop: strings that end a completion; they are cut off it.
        shots: how many examples are shown unless the user says otherwise.
        chat: the prompt is one user message; the engine's side renders :meth:`messages` with the tokenizer's chat template.
        system: of a chat, the system message before all others; none if it is empty (some chat templates then write their own).

    Raises:
        UserError: a placeholder is missing or stands where it has no meaning.
    """

    name: str
    prompt: str
    shot: str = ""
    stop: tuple[str, ...] = ()
    shots: int = 0
    chat: bool = False
    system: str = ""

    def __post_init__(self) -> None:
        if "{question}" not in self.prompt:
            raise UserError(f"template {self.name}: the prompt has no {{question}}; put it where the question belongs")
        if "{answer}" in self.prompt:
            raise UserError(f"template {self.name}: the prompt holds {{answer}}; it belongs into the shot alone")
        if "{shots}" in self.prompt and not ("{question}" in self.shot and "{answer}" in self.shot):
            raise UserError(
                f"template {self.name}: the shot needs both {{question}} and {{answer}}; add what is missing"
            )
        if "{shots}" in self.shot:
            raise UserError(f"template {self.name}: the shot holds {{shots}}; it belongs into the prompt alone")
        if self.shots < 0 or (self.shots and not self.takes_shots):
            raise UserError(
                f"template {self.name}: {self.shots} shots, but the prompt has no {{shots}}; set 0 or add it"
            )
        if "" in self.stop:
            raise UserError(f"template {self.name}: an empty stop string would stop everything; remove it")
        if self.system and not self.chat:
            raise UserError(
                f"template {self.name}: only a chat has a system message; set chat to true, or leave it out"
            )

    @property
    def takes_shots(self) -> bool:
        return self.chat or "{shots}" in self.prompt

    @property
    def begin(self) -> str:
        """What stands between the prompt and a solution's first character, as the shots show it (a space, or nothing).

        The prompt ends before it, since most tokenizers join a space to the word after it. A completion is drawn with it,
        :meth:`clean` takes it off, and a training row (prompt, ``begin`` + solution) puts it back.
        """
        if self.chat or not self.shot:
            return ""
        tail = self.prompt.rsplit("{question}", 1)[1]
        between = self.shot.rsplit("{question}", 1)[1].split("{answer}", 1)[0]
        return between[len(tail) :] if tail and between.startswith(tail) else ""

    def render(self, question: str, shots: Sequence[Question] = ()) -> str:
        """The prompt's text. A shot that is the question itself is left out, as it would show its answer.

        Raises:
            UserError: shots for a template that takes none.
        """
        assert not self.chat, "a chat template is rendered from messages()"
        self._check_shots(shots)
        blocks = "".join(
            _fill(self.shot, {"question": shot.question, "answer": shot.answer}) for shot in _others(question, shots)
        )
        return _fill(self.prompt, {"question": question, "shots": blocks})

    def messages(self, question: str, shots: Sequence[Question] = ()) -> list[dict[str, str]]:
        """The prompt as chat messages ``{"role", "content"}``: the system message, each shot a user's and an assistant's turn,
        then the question.

        Without a chat template of its own (``chat`` False) everything stands in one user message.
        """
        if not self.chat:
            return [{"role": "user", "content": self.render(question, shots)}]
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for shot in _others(question, shots):
            turns.append({"role": "user", "content": _fill(self.prompt, {"question": shot.question})})
            turns.append({"role": "assistant", "content": shot.answer})
        turns.append({"role": "user", "content": _fill(self.prompt, {"question": question})})
        return turns

    def user_text(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """Of a chat's prompt without shots the user's text, or None if its turns are not this template's."""
        assert self.chat
        before = [("system", self.system)] if self.system else []
        turns = [(turn["role"], turn["content"]) for turn in messages]
        if turns[:-1] != before or not turns or turns[-1][0] != "user":
            return None
        return turns[-1][1]

    def asks_as(self, other: Template) -> bool:
        """Whether both put a question without shots in the same words."""
        return (self.prompt, self.chat, self.system) == (other.prompt, other.chat, other.system)

    def clean(self, text: str) -> str:
        """A completion's text without the white space in front of it (``begin``, or a model's own)."""
        return text.lstrip()

    def _check_shots(self, shots: Sequence[Question]) -> None:
        if shots and not self.takes_shots:
            raise UserError(
                f"template {self.name} takes no shots, {len(shots)} were given; use --shots 0 or another template"
            )


TEMPLATES = {
    template.name: template
    for template in (
        Template("gsm8k", "{shots}Question: {question}\nAnswer:", _SHOT, _STOP, shots=8),
        # Word for word the prompt of Yuan et al. 2023 (arXiv 2308.01825), zero-shot; a tuned model ends with its EOS.
        Template(
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\n{question}\n\n### Response:",
        ),
        Template(
            "chat",
            "{question}\n\nSolve this step by step, one step a line. Write every calculation like this: 3*4 = <<3*4=12>>12."
            " End with a line that holds #### and the final number.",
            chat=True,
        ),
        Template("plain", "{question}\n"),
    )
}


def manifest_is_chat(prompt: Mapping[str, Any]) -> bool:
    """Whether the prompt of a run's manifest (``config["prompt"]``) is put through the model's own chat template."""
    name = prompt.get("template")
    builtin = isinstance(name, str) and name in TEMPLATES and TEMPLATES[name].chat
    return bool(prompt.get("chat", builtin))  # older runs do not say


def manifest_template(prompt: Mapping[str, Any]) -> Template:
    """The template that a run's manifest holds as ``config["prompt"]``. Raises UserError for one that is no template."""
    name, stop = str(prompt.get("template", "stored")), tuple(prompt.get("stop") or ())
    text, shot, system = (str(prompt.get(part, "")) for part in ("text", "shot", "system"))
    return Template(name, text, shot, stop, chat=manifest_is_chat(prompt), system=system)


def load_template(name_or_file: str | Path) -> Template:
    """A built-in template by name, or one from a file.

    A text file is the prompt itself, with ``{question}`` and, if it is to show examples, ``{shots}``; one line break at
    its end is the editor's and is removed. Examples are then written and stopped as in ``gsm8k``. A ``.json`` file is
    ``{"prompt": "…", "shot": "…", "stop": ["…"], "shots": 4, "chat": false, "system": "…", "name": "…"}``, all but ``prompt``
    optional.

    Raises:
        UserError: neither a template nor a readable file, or contents that make no template.
    """
    if str(name_or_file) in TEMPLATES:
        return TEMPLATES[str(name_or_file)]
    path = Path(name_or_file)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a name too long for a file, or one with a NUL byte
        is_file = False
    if not is_file:
        raise UserError(
            f"{name_or_file}: no such template or file; use {', '.join(TEMPLATES)} or a file with {{question}}"
        )
    text = read_text(path).replace("\r\n", "\n")
    if path.suffix.lower() == ".json":
        return _from_json(path, text)
    prompt = text.removesuffix("\n")
    if "{shots}" in prompt:
        return Template(str(path), prompt, _SHOT, _STOP, shots=TEMPLATES["gsm8k"].shots)
    return Template(str(path), prompt)


def model_template(folder: str | Path) -> Template | None:
    """The template that the model in ``folder`` was trained with, or None where none is stored.

    Raises:
        UserError: the stored file is damaged.
    """
    file = Path(folder) / STORED
    return load_template(file) if file.is_file() else None


def save_template(template: Template, folder: str | Path) -> Path:
    """Store ``template`` in a model's folder, so that :func:`model_template` gives it back as it is."""
    t = template
    held = {"name": t.name, "prompt": t.prompt, "shot": t.shot, "stop": list(t.stop), "shots": t.shots, "chat": t.chat}
    held |= {"system": t.system} if t.system else {}
    file = Path(folder) / STORED
    write_atomic(file, [json.dumps(held, indent=2, ensure_ascii=False).encode() + b"\n"])
    return file


def exemplars(count: int, file: str | Path | None = None) -> list[Question]:
    """The first ``count`` examples for few-shot prompts, of ``file`` (columns as for questions) or the bundled eight.

    Raises:
        UserError: fewer than ``count`` there, a negative count, or an unreadable file.
    """
    if count < 0:
        raise UserError(f"{count} shots; the number must be 0 or more")
    if count == 0:
        return []
    source = Path(file) if file is not None else BUNDLED / "exemplars.jsonl"
    found = load_questions(source)
    if count > len(found):
        name = file if file is not None else "the bundled exemplars"
        raise UserError(f"{count} shots, but {name} holds {len(found)}; ask for fewer or name a file with more")
    return found[:count]


def _from_json(path: Path, text: str) -> Template:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: invalid JSON ({error}); mend the file") from error
    if not isinstance(value, dict) or "prompt" not in value:
        raise UserError(f'{path}: expected an object with "prompt"; write {{"prompt": "…{{question}}…"}}')
    unknown = [key for key in value if key not in _JSON_KEYS]
    if unknown:
        raise UserError(f"{path}: unknown keys {', '.join(unknown)}; use {', '.join(_JSON_KEYS)}")
    prompt, shot, stop = value["prompt"], value.get("shot", ""), value.get("stop", [])
    if isinstance(stop, str):
        stop = [stop]
    if not isinstance(prompt, str) or not isinstance(shot, str):
        raise UserError(f'{path}: "prompt" and "shot" must be text; put them in quotes')
    if not isinstance(stop, list) or not all(isinstance(item, str) for item in stop):
        raise UserError(f'{path}: "stop" must be a list of texts; write ["…"]')
    if "{shots}" in prompt and not shot:
        shot = _SHOT
    shots = value.get("shots", TEMPLATES["gsm8k"].shots if "{shots}" in prompt else 0)
    if not isinstance(shots, int) or isinstance(shots, bool):
        raise UserError(f'{path}: "shots" must be a whole number')
    chat, system, name = value.get("chat", False), value.get("system", ""), value.get("name", str(path))
    if not isinstance(chat, bool) or not isinstance(system, str) or not isinstance(name, str):
        raise UserError(f'{path}: "chat" must be true or false, "system" and "name" text')
    # Built under the file's name first, so that what is wrong with it names the file.
    return replace(Template(str(path), prompt, shot, tuple(stop), shots, chat, system), name=name)


def _fill(text: str, values: dict[str, str]) -> str:
    # One pass, so that a question that itself holds "{shots}" stays as it is.
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def _others(question: str, shots: Sequence[Question]) -> list[Question]:
    return [shot for shot in shots if _plain(shot.question) != _plain(question)]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
