"""A monitor ends a path at a token, sees its text as it is, and changes nothing of the others."""

from __future__ import annotations

import pytest

from rftfast.engine import Request, Sampler, SamplingParams
from rftfast.engine.monitor import DrawnPath
from tests.tiny_model import write_tiny_llama

PARAMS = SamplingParams(k=8, temperature=1.5, max_tokens=60, seed=1)
REQUESTS = [Request("a", tuple(b"one and two"), PARAMS), Request("b", tuple(b"one and three"), PARAMS)]


class StopAt:
    """Ends a path with the first of ``letters`` in it; keeps what it was shown."""

    def __init__(self, letters: bytes) -> None:
        self.triggers = letters
        self.seen: list[tuple[str, int, str, int]] = []

    def __call__(self, path: DrawnPath) -> str | None:
        self.seen.append((path.name, path.sample_index, path.text, path.newest))
        return "enough"


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    return Sampler.from_pretrained(write_tiny_llama(tmp_path_factory.mktemp("m")), dtype="float32", kv_memory="8MiB")


def test_a_path_ends_at_the_token_the_monitor_names(sampler: Sampler) -> None:
    free = {(g.name, g.sample_index): g for g in sampler.stream(REQUESTS)}
    monitor = StopAt(b"aeiou")
    stopped = {(g.name, g.sample_index): g for g in sampler.stream(REQUESTS, monitor)}
    assert free.keys() == stopped.keys()
    spelled = sampler.tokenizer.token_bytes(sampler.config.vocab_size)
    ended = 0
    for name, whole in free.items():
        vowels = [i for i, t in enumerate(whole.token_ids) if set(spelled[t]) & set(b"aeiou")]
        short = stopped[name]
        if vowels:
            ended += 1
            assert short.finish_reason == "enough"
            assert short.token_ids == whole.token_ids[: vowels[0] + 1]
            assert short.logprobs == whole.logprobs[: vowels[0] + 1]
            drawn = b"".join(spelled[t] for t in short.token_ids).decode(errors="replace")
            assert (*name, drawn, 1) in monitor.seen
        else:
            assert short == whole
    assert 0 < ended == len(monitor.seen)


def test_without_a_trigger_it_is_never_called(sampler: Sampler) -> None:
    monitor = StopAt(b"")
    assert all(g.finish_reason in ("eos", "length") for g in sampler.stream(REQUESTS, monitor))
    assert not monitor.seen


def test_a_source_may_wait_for_paths_before_it_asks_for_more(sampler: Sampler) -> None:
    """The second request is made from what the first one brought."""
    got = []

    def source():  # type: ignore[no-untyped-def]
        yield REQUESTS[0]
        while len(got) < PARAMS.k:
            yield None
        tokens = REQUESTS[0].tokens + got[0].token_ids[:5]
        yield Request("more", tokens, PARAMS, samples=(3, 5))

    for generation in sampler.stream(source()):
        got.append(generation)
    assert sorted((g.name, g.sample_index) for g in got[PARAMS.k :]) == [("more", 3), ("more", 5)]
    assert len(got) == PARAMS.k + 2
