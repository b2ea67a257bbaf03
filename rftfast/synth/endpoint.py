"""A teacher behind an OpenAI-compatible endpoint, by the official client.

Many requests are under way at a time. One that fails is tried again after a pause; one that the server refuses for what it
says is given up; an error that concerns all of them (a wrong key, a model that is not there) ends the job.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from rftfast.errors import UserError
from rftfast.synth.limits import Gate, Rates, backoff, retry_after
from rftfast.synth.teacher import Answer, Ask, Text, Usage, scrub, shorten

_FATAL = (401, 403, 404)
_REFUSED = (400, 413, 422)
_CHARACTERS_A_TOKEN = 4
_FAILED_IN_A_ROW = 5


class _Again(Exception):
    """This attempt came to nothing; another may not. ``wait_s``: what the server asked for."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _Refused(Exception):
    """The server will not answer this request."""


class EndpointTeacher:
    """Asks ``model`` at ``url`` (None: OpenAI's own). The key is read from the environment variable ``key_variable`` and
    stands in no message, log or file.

    Raises UserError: the client is not installed, no key for OpenAI's own endpoint, a URL that cannot be one.
    """

    def __init__(
        self,
        model: str,
        url: str | None = None,
        *,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        rates: Rates = Rates(),
    ) -> None:
        if concurrency < 1:
            raise UserError(f"concurrency is {concurrency}: use at least 1")
        self.model, self.url = model, checked_url(url)
        self.retried = 0
        """Attempts that failed and were followed by another."""
        self._rates, self._concurrency = rates, concurrency
        key = os.environ.get(key_variable, "")
        if not key and url is None:
            raise UserError(f"no key for the endpoint: set the environment variable {key_variable}")
        self._secrets = (key,)
        self._key = key or "none"  # a server on one's own machine wants none, and the client insists
        self._failed = 0  # asks in a row
        _import_client()

    def stream(self, asks: Iterable[Ask | None]) -> Iterator[Answer]:
        """Raises UserError: an error that concerns all requests, or too many asks in a row that failed for good."""
        loop = asyncio.new_event_loop()
        source = iter(asks)
        tasks: set[asyncio.Task[Answer]] = set()
        client = self._client()
        gate = Gate(self._rates)
        more = True
        try:
            while more or tasks:
                while more and len(tasks) < self._concurrency:
                    ask = next(source, _END)
                    if ask is _END:
                        more = False
                    elif ask is None:
                        break
                    else:
                        assert isinstance(ask, Ask)
                        tasks.add(loop.create_task(self._answer(client, gate, ask)))
                if not tasks:
                    assert not more, "the source waits for answers and none is on its way"
                    break
                done, tasks = loop.run_until_complete(asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))
                errors = [error for task in done if (error := task.exception()) is not None]
                for task in done:
                    if task.exception() is None:
                        yield self._counted(task.result())
                if errors:
                    raise errors[0]
        finally:
            loop.run_until_complete(_end(client, tasks))
            loop.close()

    def _counted(self, answer: Answer) -> Answer:
        self._failed = self._failed + 1 if answer.failed else 0
        if self._failed >= _FAILED_IN_A_ROW:
            raise UserError(
                f"{self.url}: {self._failed} requests in a row failed {self._rates.retries + 1} times each (the last: "
                f"{answer.failed}); everything answered so far is kept, run the same command again to go on"
            )
        return answer

    def _client(self) -> Any:
        openai = _import_client()
        return openai.AsyncOpenAI(api_key=self._key, base_url=self.url, max_retries=0, timeout=self._rates.timeout_s)

    async def _answer(self, client: Any, gate: Gate, ask: Ask) -> Answer:
        """Until all n texts are there: a server that gives fewer at a time is asked for the rest."""
        texts: list[Text] = []
        usage = Usage()
        attempt = 0
        while len(texts) < ask.n:
            try:
                found, used = await self._request(client, gate, ask, ask.n - len(texts))
                texts += found
                usage += used
                attempt = 0
            except _Refused as error:
                return Answer(ask, tuple(texts), usage, refused=str(error))
            except _Again as error:
                attempt += 1
                if attempt > self._rates.retries:
                    return Answer(ask, tuple(texts), usage, failed=str(error))
                self.retried += 1
                if error.wait_s is not None:
                    gate.pause(error.wait_s)
                await asyncio.sleep(backoff(self._rates, ask.name, attempt))
        return Answer(ask, tuple(texts[: ask.n]), usage)

    async def _request(self, client: Any, gate: Gate, ask: Ask, n: int) -> tuple[list[Text], Usage]:
        openai = _import_client()
        characters = sum(len(m["content"]) for m in ask.messages)
        expected = characters / _CHARACTERS_A_TOKEN + n * ask.max_tokens / 2
        await gate.enter(expected)
        try:
            reply = await asyncio.wait_for(
                client.chat.completions.create(
                    model=self.model,
                    messages=list(ask.messages),
                    n=n,
                    temperature=ask.temperature,
                    max_tokens=ask.max_tokens,
                ),
                # The client's own limit is for silence; a server that sends a byte now and then would hold us for ever.
                self._rates.timeout_s,
            )
        except (asyncio.TimeoutError, openai.APITimeoutError):
            raise _Again(f"no answer within {self._rates.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            raise self._status_error(error) from None
        except openai.APIError as error:
            raise _Again(self._said(error)) from None
        except json.JSONDecodeError as error:
            raise _Again(f"an answer that is no JSON ({error.msg})") from None
        texts, usage = _texts(reply)
        gate.settle(expected, usage.input + usage.output if not usage.unknown else expected)
        return texts, usage

    def _status_error(self, error: Any) -> Exception:
        status, said = error.status_code, self._said(error)
        if status in _FATAL or getattr(error, "code", None) == "insufficient_quota":
            return UserError(f"{self.url or 'the endpoint'}: {said}; mend that and run the same command again")
        if status in _REFUSED:
            return _Refused(said)
        return _Again(said, retry_after(error.response.headers))

    def _said(self, error: Exception) -> str:
        return shorten(scrub(str(error), self._secrets))


_END = object()


async def _end(client: Any, tasks: set[asyncio.Task[Answer]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


def _texts(reply: Any) -> tuple[list[Text], Usage]:
    """The texts of a reply and its tokens. Raises ``_Again`` for a reply without any."""
    choices = getattr(reply, "choices", None)
    texts = []
    for choice in choices if isinstance(choices, list) else []:
        content = getattr(getattr(choice, "message", None), "content", None)
        if isinstance(content, str) and content.strip():
            texts.append(Text(content, getattr(choice, "finish_reason", None) == "length"))
    if not texts:
        raise _Again("an answer without a text")
    used = getattr(reply, "usage", None)
    counts = getattr(used, "prompt_tokens", None), getattr(used, "completion_tokens", None)
    if not all(isinstance(count, int) for count in counts):
        return texts, Usage(1, unknown=1)
    return texts, Usage(1, *counts)  # type: ignore[arg-type]


def checked_url(url: str | None) -> str | None:
    """The endpoint's address. Raises UserError for one that is none, and for one with a password in it, as it is recorded."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise UserError(f"endpoint {url!r} is no address: write http://host:port/v1")
    if parts.username or parts.password or parts.query:
        raise UserError(
            "the endpoint's address holds a user, a password or a query: put the key into the environment instead"
        )
    return url


def _import_client() -> Any:
    try:
        import openai
    except ImportError as error:
        raise UserError("asking an endpoint needs the openai client; run: pip install 'rftfast[synth]'") from error
    return openai
