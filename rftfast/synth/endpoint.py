"""A teacher behind an OpenAI-compatible endpoint, by the official client.

Many requests are under way at a time. One that fails is tried again after a pause; one that the server refuses for what it
says is given up; an error that concerns all of them (a wrong key, a model that is not there) ends the job.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from rftfast.errors import UserError
from rftfast.synth.limits import Gate, Rates, backoff, retry_after
from rftfast.synth.replies import Reply, read_reply
from rftfast.synth.teacher import Answer, Ask, Text, Usage, scrub, shorten

_FATAL = (401, 402, 403, 404)
_REFUSED = (400, 413, 422)
_LIMIT, _NEWER_LIMIT = "max_tokens", "max_completion_tokens"
_CHARACTERS_A_TOKEN = 4
_FAILED_IN_A_ROW = 5


class _Again(Exception):
    """This attempt came to nothing; another may not. ``wait_s``: what the server asked for; ``usage``: what it took."""

    def __init__(self, why: str, wait_s: float | None = None, usage: Usage = Usage()) -> None:
        super().__init__(why)
        self.wait_s, self.usage = wait_s, usage


class _Refused(Exception):
    """The server will not answer this request."""

    def __init__(self, why: str, usage: Usage = Usage()) -> None:
        super().__init__(why)
        self.usage = usage


class _Otherwise(Exception):
    """The server wants this request put in other words, in which it is put from now on."""


class EndpointTeacher:
    """Asks ``model`` at ``url`` (None: what OPENAI_BASE_URL names, as the client has it, or OpenAI's own). The key is read
    from the environment variable ``key_variable`` and stands in no message, log or file.

    Raises UserError: the client is not installed, no key for OpenAI's own endpoint or one that cannot be sent, a URL that
    cannot be one.
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
        self.model, self.url = model, checked_url(url or os.environ.get("OPENAI_BASE_URL") or None)
        self.retried = 0
        """Attempts that failed and were followed by another."""
        self._rates, self._concurrency = rates, concurrency
        key = os.environ.get(key_variable, "").strip()
        if not key and self.url is None:
            raise UserError(f"no key for the endpoint: set the environment variable {key_variable}")
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"the environment variable {key_variable} holds no key: characters that no header may have")
        self._secrets = (key,)
        self._key = key or "none"  # a server on one's own machine wants none, and the client insists
        self._failed, self._last_failure = 0, ""  # asks in a row, and why
        self._answered = False  # any ask
        self._refused: list[Answer] = []  # those before the first that was answered
        self._several: bool | None = None  # whether the server takes n > 1; not known at first
        self._limit = _LIMIT
        _import_client()

    @property
    def name(self) -> str:
        """Of the endpoint, as it is recorded and told."""
        return self.url or "OpenAI"

    def stream(self, asks: Iterable[Ask | None]) -> Iterator[Answer]:
        """Raises UserError: an error that concerns all requests, or too many asks in a row that failed for good."""
        loop = asyncio.new_event_loop()
        source = iter(asks)
        tasks: set[asyncio.Task[Answer]] = set()
        client = self._client()
        gate = Gate(self._rates)
        more = True
        try:
            while more or tasks or self._refused:
                while more and len(tasks) < self._concurrency:
                    ask = next(source, _END)
                    if ask is _END:
                        more = False
                    elif ask is None:
                        break
                    else:
                        assert isinstance(ask, Ask)
                        tasks.add(loop.create_task(self._answer(client, gate, ask)))
                if not tasks and self._refused:
                    yield from self._released()
                    continue
                if not tasks:
                    assert not more, "the source waits for answers and none is on its way"
                    break
                done, tasks = loop.run_until_complete(asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))
                errors = [error for task in done if (error := task.exception()) is not None]
                for task in done:
                    if task.exception() is None:
                        yield from self._counted(task.result())
                if errors:
                    raise errors[0]
                self._check_hope()
        finally:
            loop.run_until_complete(_end(client, tasks))
            loop.close()

    def _counted(self, answer: Answer) -> list[Answer]:
        """The answers that may be given on. What the server refuses waits for a first ask that it answers: until then it may
        be our way of asking that it refuses, and no problem is to be dropped for that."""
        self._failed = self._failed + 1 if answer.failed else 0
        self._last_failure = answer.failed or self._last_failure
        if answer.refused and not answer.usage.requests and not self._answered:
            self._refused.append(answer)
            return []
        self._answered = self._answered or not answer.failed
        return [*self._released(), answer] if self._answered else [answer]

    def _released(self) -> list[Answer]:
        held, self._refused = self._refused, []
        return held

    def _check_hope(self) -> None:
        """UserError where there is none: too many asks in a row that failed for good, or were refused from the start."""
        if len(self._refused) >= _FAILED_IN_A_ROW:
            raise UserError(
                f"{self.name}: refused the first {len(self._refused)} requests (the last: {self._refused[-1].refused}); mend "
                "that and run the same command again"
            )
        if self._failed >= _FAILED_IN_A_ROW:
            raise UserError(
                f"{self.name}: {self._failed} requests in a row failed {self._rates.retries + 1} times each (the last: "
                f"{self._last_failure}); everything answered so far is kept, run the same command again to go on"
            )

    def _client(self) -> Any:
        openai = _import_client()
        return openai.AsyncOpenAI(api_key=self._key, base_url=self.url, max_retries=0, timeout=self._rates.timeout_s)

    async def _answer(self, client: Any, gate: Gate, ask: Ask) -> Answer:
        """Until all n texts are there: a server that gives fewer at a time is asked for the rest."""
        texts: list[Text] = []
        usage = Usage()
        attempt = 0
        alone = False  # whether one text is asked for at a time
        while len(texts) < ask.n:
            n = 1 if alone or self._several is False else ask.n - len(texts)
            try:
                found = await self._request(client, gate, ask, n)
                texts += found.texts
                usage += found.usage
                attempt = 0
                if self._several is None and (n > 1 or alone):
                    self._several = n > 1
            except _Otherwise:
                continue
            except _Refused as error:
                usage += error.usage
                if texts and error.usage.requests:  # declined beside texts that it gave: one without a vote
                    texts.append(Text("", True))
                    continue
                if n > 1 and self._several is None and not error.usage.requests:  # it may be n that it does not take
                    alone = True
                    continue
                return Answer(ask, tuple(texts), usage, refused=str(error))
            except _Again as error:
                usage += error.usage
                attempt += 1
                if attempt > self._rates.retries:
                    return Answer(ask, tuple(texts), usage, failed=str(error))
                self.retried += 1
                if error.wait_s is not None:
                    gate.pause(error.wait_s)
                await asyncio.sleep(backoff(self._rates, ask.name, attempt))
        return Answer(ask, tuple(texts[: ask.n]), usage)

    async def _request(self, client: Any, gate: Gate, ask: Ask, n: int) -> Reply:
        openai = _import_client()
        characters = sum(len(m["content"]) for m in ask.messages)
        expected = characters / _CHARACTERS_A_TOKEN + n * ask.max_tokens / 2
        await gate.enter(expected)
        limit = self._limit
        try:
            reply = await asyncio.wait_for(
                client.chat.completions.create(
                    model=self.model,
                    messages=list(ask.messages),
                    n=n,
                    temperature=ask.temperature,
                    extra_body={limit: ask.max_tokens},  # a word that older clients do not know may stand there, too
                ),
                # The client's own limit is for silence; a server that sends a byte now and then would hold us for ever.
                self._rates.timeout_s,
            )
        except (asyncio.TimeoutError, openai.APITimeoutError):
            raise _Again(f"no answer within {self._rates.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            if error.status_code in _REFUSED and limit == _LIMIT and _NEWER_LIMIT in str(error):
                self._limit = (
                    _NEWER_LIMIT  # OpenAI's newer models want it by that name, most other servers by the old one
                )
                raise _Otherwise from None
            raise self._status_error(error) from None
        except openai.APIError as error:
            raise _Again(self._said(error)) from None
        except (ValueError, RecursionError) as error:  # of a number or a nesting no one can mean, besides broken JSON
            raise _Again(f"an answer that is no JSON ({getattr(error, 'msg', type(error).__name__)})") from None
        found = read_reply(reply, self._secrets)
        usage = found.usage
        gate.settle(expected, usage.input + usage.output if not usage.unknown else expected)
        if found.declined is not None:
            raise _Refused(f"the model declines: {found.declined}", usage)
        if not found.texts:
            raise _Again("an answer without a text", usage=usage)
        return found

    def _status_error(self, error: Any) -> Exception:
        status, said = error.status_code, self._said(error)
        if status in _FATAL or getattr(error, "code", None) == "insufficient_quota":
            return UserError(f"{self.name}: {said}; mend that and run the same command again")
        if status in _REFUSED:
            return _Refused(said)
        return _Again(said, retry_after(error.response.headers))

    def _said(self, error: Exception) -> str:
        # "Connection error." is all the client says itself; why stands in what it was raised from.
        cause = error.__cause__ if isinstance(error, _import_client().APIConnectionError) else None
        said = f"{error} ({cause})" if cause is not None and str(cause) else str(error)
        return shorten(scrub(said, self._secrets))


_END = object()


async def _end(client: Any, tasks: set[asyncio.Task[Answer]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


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
