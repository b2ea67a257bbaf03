"""A teacher of one's own: a model on this machine, asked through our sampler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rftfast.engine.params import Generation, Request, SamplingParams
from rftfast.models.tokenizer import Tokenizer
from rftfast.pipeline.engines import Engine
from rftfast.synth.teacher import Answer, Ask, Text, Usage


class LocalTeacher:
    """Draws each ask's texts from ``engine``; the same seed and ask give the same texts."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, *, seed: int = 0) -> None:
        self._engine, self._tokenizer, self._seed = engine, tokenizer, seed

    def stream(self, asks: Iterable[Ask | None]) -> Iterator[Answer]:
        open_asks: dict[str, tuple[Ask, int, list[Generation]]] = {}

        def requests() -> Iterator[Request | None]:
            for ask in asks:
                if ask is None:
                    yield None
                    continue
                request = self._request(ask)
                open_asks[ask.name] = ask, len(request.tokens), []
                yield request

        for generation in self._engine.stream(requests()):
            ask, prompt, arrived = open_asks[generation.name]
            arrived.append(generation)
            if len(arrived) == ask.n:
                del open_asks[ask.name]
                arrived.sort(key=lambda g: g.sample_index)
                usage = Usage(1, prompt, sum(len(g.token_ids) for g in arrived))
                yield Answer(ask, tuple(Text(g.text, g.finish_reason == "length") for g in arrived), usage)

    def _request(self, ask: Ask) -> Request:
        chat = self._tokenizer.has_chat_template
        text = self._tokenizer.chat(ask.messages) if chat else ask.plain
        params = SamplingParams(
            k=ask.n,
            temperature=ask.temperature,
            max_tokens=ask.max_tokens,
            stop=() if chat else ask.stop,
            seed=self._seed,
        )
        return Request(ask.name, tuple(self._tokenizer.encode(text, add_special=not chat)), params)
