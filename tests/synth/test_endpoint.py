"""What an endpoint may answer, request by request: other parameters, refusals, odd replies, what was paid for them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("openai", reason="the openai client is not installed (pip install 'rftfast[synth]')")

from rftfast.errors import UserError
from rftfast.synth.endpoint import EndpointTeacher
from rftfast.synth.limits import Rates
from rftfast.synth.teacher import Answer, Ask, Text, Usage
from tests.synth.server import TeacherServer, choice, completion, serving

KEY = "sk-a-secret-that-nobody-may-see"
RATES = Rates(retries=2, backoff_s=0.01, timeout_s=4)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def asks(count: int = 1, n: int = 1) -> list[Ask]:
    message = {"role": "user", "content": "Write one new problem"}
    return [Ask(f"p{i}/problem", (message,), "", (), n, 64, 1.0) for i in range(count)]


def answers(server: TeacherServer, wanted: list[Ask], concurrency: int = 1) -> list[Answer]:
    return list(EndpointTeacher("m", server.url, concurrency=concurrency, rates=RATES).stream(wanted))


def replied(*choices: dict[str, Any], n: int = 1) -> Answer:
    """The answer to one ask that the server answers so."""
    body = json.dumps(completion(*choices)).encode()
    with serving(lambda number: (200, body)) as server:
        (answer,) = answers(server, asks(n=n))
    return answer


def test_an_answer_without_a_text_is_paid_for_each_time() -> None:
    answer = replied(choice(None))
    assert answer.failed == "an answer without a text" and answer.usage == Usage(3, 300, 30)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"usage": ' + b"9" * 5000 + b"}", b"\xff", b"null", b'"hello"', b"[1]"]
)
def test_a_body_that_cannot_be_read_is_asked_for_again(body: bytes) -> None:
    with serving(lambda number: (200, body) if number < 2 else None) as server:
        (answer,) = answers(server, asks())
    assert answer.texts and len(server.requests) == 3


def test_counts_of_tokens_that_are_none_are_not_known() -> None:
    for counts in (
        None,
        5,
        {"prompt_tokens": -7, "completion_tokens": 3},
        {"prompt_tokens": 7},
        {"prompt_tokens": "7"},
    ):
        body = json.dumps({**completion(choice("One.")), "usage": counts}).encode()
        with serving(lambda number, body=body: (200, body)) as server:
            (answer,) = answers(server, asks())
        assert answer.usage == Usage(1, unknown=1)


@pytest.mark.parametrize("content", [None, ""])
def test_thoughts_that_took_all_tokens_are_a_text_cut_at_its_length(content: str | None) -> None:
    answer = replied(choice(content, "length"))
    assert answer.texts == (Text("", True),) and answer.usage == Usage(1, 100, 10)


def test_what_the_model_declines_is_refused_and_not_asked_again() -> None:
    for declined, words in (
        (choice(None, refusal="I cannot help with that."), "the model declines: I cannot help with that."),
        (choice(None, "content_filter"), "the model declines: content_filter"),
    ):
        answer = replied(declined)
        assert answer.refused == words and answer.usage == Usage(1, 100, 10)
    some = replied(choice("One."), choice(None, refusal="No."), choice("Tw", "content_filter"), n=3)
    assert some.texts == (Text("One."), Text("Tw", True), Text("", True)) and some.refused is None
    bodies = [json.dumps(completion(c)).encode() for c in (choice("One."), choice(None, refusal="No."), choice("Two."))]
    with serving(lambda number: (200, bodies[number])) as server:
        (answer,) = answers(server, asks(n=3))
    assert [text.text for text in answer.texts] == ["One.", "", "Two."] and answer.refused is None
    assert answer.usage == Usage(3, 300, 30)


def test_a_key_that_is_echoed_and_halves_of_unicode_pairs_stand_in_no_text() -> None:
    assert replied(choice(f"half \ud83d, and {KEY} it is")).texts == (Text("half ?, and *** it is"),)


def test_a_short_key_is_a_word_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    assert replied(choice("The test is on Monday.")).texts == (Text("The test is on Monday."),)


def test_a_key_is_taken_without_the_line_break_behind_it_and_refused_where_no_header_may_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    with serving() as server:
        answers(server, asks())
    assert server.keys == {f"Bearer {KEY}"}
    for bad in ("sk-with-an-é", "sk-of-two\nlines"):
        monkeypatch.setenv("OPENAI_API_KEY", bad)
        with pytest.raises(UserError, match="OPENAI_API_KEY holds no key") as error:
            EndpointTeacher("m", "http://localhost:1/v1")
        assert "sk-" not in str(error.value)


def test_the_address_that_the_client_would_take_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        teacher = EndpointTeacher("m")
        (answer,) = teacher.stream(asks())
        assert teacher.name == server.url and answer.texts
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:hunter2@host/v1")
    with pytest.raises(UserError, match="into the environment"):
        EndpointTeacher("m")
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert EndpointTeacher("m").name == "OpenAI"


def test_why_there_is_no_connection_is_said() -> None:
    with serving() as server:
        gone = server.url
    (answer,) = EndpointTeacher("m", gone, rates=Rates(retries=0, timeout_s=4)).stream(asks())
    assert answer.failed is not None and re.fullmatch(r"Connection error\. \(.{5,}\)", answer.failed)


def refusing(server: TeacherServer, *, several: bool = False, old_limit: bool = False) -> None:
    """The server takes no n above 1, or no ``max_tokens``."""

    def fault(number: int) -> tuple[int, bytes] | None:
        body = server.requests[number]
        if several and body["n"] > 1:
            return 400, b'{"error": {"message": "n has to be 1"}}'
        if old_limit and "max_tokens" in body:
            return 400, b'{"error": {"message": "Unsupported: max_tokens. Use max_completion_tokens instead."}}'
        return None

    server.fault = fault


def test_a_server_that_takes_no_n_is_asked_for_one_text_at_a_time() -> None:
    with serving() as server:
        refusing(server, several=True)
        found = answers(server, asks(3, n=4))
    assert [len(answer.texts) for answer in found] == [4] * 3 and not any(answer.refused for answer in found)
    assert [body["n"] for body in server.requests] == [4] + [1] * 12, "and from then on at once"


def test_a_server_that_has_taken_n_is_taken_at_its_word_when_it_refuses() -> None:
    with serving(lambda number: (400, b"{}") if number == 1 else None) as server:
        found = answers(server, asks(3, n=4))
    assert [answer.refused is not None for answer in found] == [False, True, False] and len(server.requests) == 3


def test_a_server_that_wants_the_limit_by_its_newer_name_gets_it() -> None:
    with serving() as server:
        refusing(server, old_limit=True)
        found = answers(server, asks(3))
    assert all(answer.texts for answer in found)
    assert ["max_completion_tokens" in body for body in server.requests] == [False, True, True, True]
    assert server.requests[1]["max_completion_tokens"] == 64


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_server_that_refuses_everything_ends_the_job_and_no_problem_is_dropped(concurrency: int) -> None:
    given: list[Answer] = []
    with serving(lambda number: (400, b'{"error": {"message": "no such model"}}')) as server:
        teacher = EndpointTeacher("m", server.url, concurrency=concurrency, rates=RATES)
        with pytest.raises(UserError, match=r"refused the first \d requests .*no such model.*mend that"):
            given.extend(teacher.stream(asks(100)))
    assert not given and len(server.requests) <= 16


@pytest.mark.parametrize("status", [402, 429])
def test_a_quota_used_up_ends_the_job_at_once(status: int) -> None:
    body = b'{"error": {"message": "no credits left", "code": "insufficient_quota"}}'
    with serving(lambda number: (status, body) if number else None) as server:
        with pytest.raises(UserError, match=f"{status} - no credits left.*run the same command again"):
            answers(server, asks(9))
        assert len(server.requests) == 2


def test_a_few_refused_at_first_are_dropped_once_the_server_answers_or_no_more_are_asked() -> None:
    with serving(lambda number: (400, b"{}") if number < 3 else None) as server:
        found = answers(server, asks(5))
        assert [answer.refused is not None for answer in found] == [True] * 3 + [False] * 2
        server.fault = lambda number: (400, b"{}")
        assert [answer.refused is not None for answer in answers(server, asks(2))] == [True, True]


def test_all_that_came_with_the_last_failure_is_given_on() -> None:
    """Five failures in a row end the job; answers that stand beside them are kept, and what the failed took is counted."""
    with serving(lambda number: (200, json.dumps(completion(choice(None))).encode())) as server:
        teacher = EndpointTeacher("m", server.url, concurrency=5, rates=RATES)
        given: list[Answer] = []
        with pytest.raises(UserError, match="5 requests in a row failed 3 times each"):
            given.extend(teacher.stream(asks(9)))
    assert len(given) >= 5 and all(answer.usage.input == 300 for answer in given)
