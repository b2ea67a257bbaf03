"""Documents: examples as tokens, the prompt's as the sampler feeds them, then the completion's, then the end token.

Prompt and completion are tokenised apart, because the sampler feeds a prompt's tokens before it knows what will follow: a
token that joins the end of the one to the beginning of the other could never be sampled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rftfast.errors import UserError
from rftfast.models.tokenizer import Tokenizer
from rftfast.train.examples import Example

# Set before a completion where the tokenizer treats the beginning of a text in a way of its own.
_ANCHORS = ("\n", ".", "a")


@dataclass(frozen=True, eq=False)
class Document:
    """One example as tokens.

    Attributes:
        id: the example's.
        tokens: [n] int32, prompt, completion, end token.
        prompt_length: how many of them are the prompt's, at least 1; the loss is on ``tokens[prompt_length:]``.
        group: documents of one question have one group; those with the same prompt may share it in a packed row.
        weights: [n] float32, the weight of each token's loss (the prompt's are not used), or None for 1 everywhere.
    """

    id: str
    tokens: np.ndarray
    prompt_length: int
    group: str
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        assert self.tokens.ndim == 1 and self.tokens.dtype == np.int32, (self.id, self.tokens.shape, self.tokens.dtype)
        assert 0 < self.prompt_length < len(self.tokens), (self.id, self.prompt_length, len(self.tokens))
        if self.weights is not None:
            assert self.weights.shape == self.tokens.shape and self.weights.dtype == np.float32, self.id

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def prompt(self) -> bytes:
        """The prompt's tokens, as a key."""
        return self.tokens[: self.prompt_length].tobytes()

    @property
    def response_tokens(self) -> int:
        """How many tokens carry loss: the completion's and the end token, but for those of weight 0."""
        if self.weights is None:
            return len(self.tokens) - self.prompt_length
        return int(np.count_nonzero(self.weights[self.prompt_length :]))


def documents(examples: Sequence[Example], tokenizer: Tokenizer, *, eos_id: int | None = None) -> list[Document]:
    """The tokens of ``examples``, in their order.

    Args:
        tokenizer: of the sampler's own class, so that a prompt becomes the very tokens the sampler feeds, BOS included.
        eos_id: the token that ends every document; by default the tokenizer's.

    Raises:
        UserError: no end token, an empty prompt, an end token inside a completion, messages without a chat template.
    """
    end = tokenizer.eos_id if eos_id is None else eos_id
    if end is None:
        raise UserError('the tokenizer has no end token; add "eos_token" to the model\'s tokenizer_config.json')
    encoder = _Encoder(tokenizer, end)
    return [encoder.document(example) for example in examples]


class _Encoder:
    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer = tokenizer
        self._end = end
        self._bytes = tokenizer.token_bytes()
        self._prompts: dict[tuple[str, bool], list[int]] = {}

    def document(self, example: Example) -> Document:
        if isinstance(example.prompt, str):
            text, rendered, completion = example.prompt, example.rendered, example.completion
        else:
            text, completion = self._rendered(example, example.prompt)
            rendered = True
        prompt = self._prompt(text, rendered)
        if not prompt:
            raise UserError(f"{example.id}: the prompt is empty; write at least one token of it")
        response = self._completion(text, rendered, prompt, completion)
        while response and response[-1] == self._end:
            response.pop()
        if self._end in response:
            raise UserError(f"{example.id}: the end token stands inside the completion; remove it there")
        if not response:
            raise UserError(f"{example.id}: the completion has no tokens; fill it in or remove the example")
        tokens = np.asarray([*prompt, *response, self._end], np.int32)
        return Document(example.id, tokens, len(prompt), example.group)

    def _rendered(self, example: Example, messages: tuple[dict[str, str], ...]) -> tuple[str, str]:
        """The chat template's text up to the assistant's turn, and that turn up to the end token."""
        if not self._tokenizer.has_chat_template:
            raise UserError(
                f"{example.id}: the prompt is messages, and the model has no chat template; use a model that has one, or"
                " texts (for questions, another --prompt)"
            )
        prompt = self._tokenizer.chat(messages)
        turn = {"role": "assistant", "content": example.completion}
        whole = self._tokenizer.chat([*messages, turn], add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise UserError(
                f"{example.id}: the model's chat template writes an assistant's turn otherwise than it asks for one;"
                " train on prompt and completion as texts"
            )
        rest = whole[len(prompt) :]
        eos = self._tokenizer.eos_token
        if eos and eos in rest:
            rest, after = rest.rsplit(eos, 1)
            if after.strip():
                raise UserError(f"{example.id}: the end token stands inside the completion; remove it there")
        return prompt, rest

    def _prompt(self, text: str, rendered: bool) -> list[int]:
        key = text, rendered
        if key not in self._prompts:
            self._prompts[key] = self._encode(text, rendered)
        return self._prompts[key]

    def _encode(self, text: str, rendered: bool) -> list[int]:
        # A chat template writes the BOS itself; a text that begins with it comes from one.
        bos = self._tokenizer.bos_token
        return self._tokenizer.encode(text, add_special=not rendered and not (bos and text.startswith(bos)))

    def _completion(self, text: str, rendered: bool, prompt: list[int], completion: str) -> list[int]:
        """Tokens of the completion whose bytes are just its text; by the first way of tokenising it that gives such."""
        wanted = completion.encode()
        found = None
        for found in self._ways(text, rendered, prompt, completion):
            if b"".join(self._bytes[token] for token in found) == wanted:
                return found
        # Special tokens have no bytes, and some tokenizers change the text (Unicode normal forms, lower case).
        return self._tokenizer.encode(completion, add_special=False)

    def _ways(self, text: str, rendered: bool, prompt: list[int], completion: str) -> Iterator[list[int]]:
        yield self._tokenizer.encode(completion, add_special=False)
        # A sentencepiece tokenizer sets a space before the first word of a text, so the text has to begin earlier.
        whole = self._encode(text + completion, rendered)
        if whole[: len(prompt)] == prompt:
            yield whole[len(prompt) :]
        for anchor in _ANCHORS:
            before = self._tokenizer.encode(anchor, add_special=False)
            whole = self._tokenizer.encode(anchor + completion, add_special=False)
            if whole[: len(before)] == before:
                yield whole[len(before) :]
