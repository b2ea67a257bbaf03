"""The sampler on a tiny random model: equal to transformers, and a path is a function of its name alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rftfast.engine import Generation, Request, Sampler, SamplingParams
from rftfast.errors import UserError
from tests.tiny_model import EOS, write_tiny_llama

HEADER = b"Q: two and two? A: four. Q: three and five? A: eight. "
PARAMS = SamplingParams(k=4, temperature=0.9, max_tokens=48, seed=3)
Paths = dict[tuple[str, int], tuple[tuple[int, ...], tuple[float, ...]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make(folder: Path, dtype: str = "float32", *, pages: int = 400, **options: Any) -> Sampler:
    page_bytes = 2 * 2 * 2 * 16 * 16 * (4 if dtype == "float32" else 2)
    options = {"threads": 1, **options}
    return Sampler.from_pretrained(folder, dtype=dtype, kv_memory=pages * page_bytes, **options)


def requests() -> list[Request]:
    """Below one header, twice the same prompt under two names, one without the header, one of a single token."""
    filtered = replace(PARAMS, temperature=1.3, top_p=0.9, top_k=40, min_p=0.001)
    return [
        Request("a", tuple(HEADER + b"Q: one and one? A:"), PARAMS),
        Request("b", tuple(HEADER + b"Q: nine less four? A:"), filtered),
        Request("c", tuple(HEADER + b"Q: one and one? A:"), replace(PARAMS, k=2, max_tokens=70)),
        Request("d", tuple(b"Another thing altogether"), PARAMS),
        Request("e", (7,), replace(PARAMS, temperature=0.0, k=2)),
    ]


def paths(generations: Any) -> Paths:
    found = [((g.name, g.sample_index), (g.token_ids, g.logprobs)) for g in generations]
    assert len(dict(found)) == len(found), "a path came twice"
    return dict(found)


@pytest.mark.parametrize(("ours", "torchs", "threads", "found"), [(2, 5, None, 2), (5, 2, None, 2), (2, 5, 3, 3)])
def test_threads_are_no_more_than_the_cores_that_are_ours_unless_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ours: int, torchs: int, threads: int | None, found: int
) -> None:
    monkeypatch.setattr("rftfast.engine.sampler.usable_cores", lambda: ours)
    torch.set_num_threads(torchs)
    make(folder, threads=threads)
    assert torch.get_num_threads() == found


@pytest.fixture(scope="module", params=["float32", "bf16"])
def expected(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Paths]:
    """Every path drawn with nobody else in the batch, on a sampler of its own."""
    alone: Paths = {}
    for r in requests():
        for index in r.indices():
            alone |= paths(make(folder, request.param, max_running=1).stream([replace(r, samples=(index,))]))
    return request.param, alone


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_running": 2},
        {"max_running": 5},
        {"prefix_share": False},
        {"threads": 2},
        {"ahead": True},
        {"ahead": True, "max_running": 3},
    ],
)
def test_paths_do_not_depend_on_the_batch(folder: Path, expected: tuple[str, Paths], options: dict[str, Any]) -> None:
    dtype, alone = expected
    assert paths(make(folder, dtype, **options).stream(requests())) == alone


def test_paths_do_not_depend_on_the_order_or_on_other_requests(folder: Path, expected: tuple[str, Paths]) -> None:
    dtype, alone = expected
    sampler = make(folder, dtype)
    assert paths(sampler.stream(reversed(requests()))) == alone
    others = [Request(f"other {i}", tuple(HEADER + b"x" * i), replace(PARAMS, k=3, seed=9)) for i in range(40)]
    mixed = [r for i, wanted in enumerate(requests()) for r in (*others[8 * i : 8 * i + 8], wanted)]
    found = paths(sampler.stream(mixed))
    assert {name: path for name, path in found.items() if name in alone} == alone
    assert len(found) == len(alone) + 3 * 40


@pytest.mark.parametrize("ahead", [False, True])
def test_paths_do_not_depend_on_preemption(folder: Path, expected: tuple[str, Paths], ahead: bool) -> None:
    dtype, alone = expected
    sampler = make(folder, dtype, pages=13, ahead=ahead)
    short = Request("short", (1, 2, 3), replace(PARAMS, k=64, max_tokens=1))
    assert len(list(sampler.stream([short]))) == 64  # from now on, short paths are expected
    assert paths(sampler.stream(requests())) == alone
    assert sampler.stats.preemptions > 0
    sampler.tree.check()
    assert sampler.tree.pinned_pages() == 0


def test_samples_differ_and_a_sample_is_named_by_its_index_alone(folder: Path, expected: tuple[str, Paths]) -> None:
    dtype, alone = expected
    assert len({alone["a", i][0] for i in range(4)}) == 4
    assert alone["a", 0][0] != alone["c", 0][0], "another name, other noise"
    assert alone["e", 0] == alone["e", 1], "greedy"
    a = requests()[0]
    assert paths(make(folder, dtype).stream([replace(a, samples=(3, 1))])) == {("a", i): alone["a", i] for i in (3, 1)}
    far = paths(make(folder, dtype).stream([replace(a, samples=(7, 3))]))
    assert far["a", 3] == alone["a", 3]
    assert far["a", 7][0] not in {alone["a", i][0] for i in range(4)}
    other_seed = replace(a, params=replace(PARAMS, seed=4))
    assert paths(make(folder, dtype).stream([other_seed]))["a", 0][0] != alone["a", 0][0]


@pytest.fixture(scope="module")
def transformers_model(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_greedy_is_what_transformers_generates(folder: Path, transformers_model: Any) -> None:
    prompts = [tuple(HEADER), tuple(HEADER + b"Q: "), (7,), tuple(range(0, 250, 7))]
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    drawn = make(folder).generate(prompts, params)
    for prompt, (generation,) in zip(prompts, drawn, strict=True):
        inputs = torch.tensor([prompt])
        with torch.no_grad():
            theirs = transformers_model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=False,
                min_new_tokens=60,
                max_new_tokens=60,
                eos_token_id=-1,
                pad_token_id=0,
            )
        assert list(generation.token_ids) == theirs[0, len(prompt) :].tolist()


def test_logprobs_are_the_models_own(folder: Path, transformers_model: Any) -> None:
    wanted = requests()
    for generation in make(folder).stream(wanted):
        prompt = next(r.tokens for r in wanted if r.name == generation.name)
        with torch.no_grad():
            logits = transformers_model(torch.tensor([[*prompt, *generation.token_ids]])).logits[0].double()
        table = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        theirs = table[range(len(generation.token_ids)), list(generation.token_ids)]
        assert torch.allclose(theirs, torch.tensor(generation.logprobs).double(), atol=1e-4)
        assert generation.logprob == pytest.approx(float(theirs.sum()), abs=1e-3)


def test_equal_prefixes_are_computed_once(folder: Path) -> None:
    wanted = requests()
    shared, private = make(folder), make(folder, prefix_share=False)
    assert paths(shared.stream(wanted)) == paths(private.stream(wanted))
    each = sum((len(r.tokens) - 1) * len(r.indices()) for r in wanted)
    question = len(b"Q: one and one? A:")
    once = len(HEADER) + question + len(b"Q: nine less four? A:") + len(b"Another thing altogether")
    assert private.stats.prefill_rows == private.stats.prompt_tokens == shared.stats.prompt_tokens == each
    assert once - 10 <= shared.stats.prefill_rows <= once
    assert shared.stats.saved_tokens == each - shared.stats.prefill_rows
    before = shared.stats.prefill_rows
    list(shared.stream(wanted))
    assert shared.stats.prefill_rows == before, "prompts stay for later requests while there is room"


def test_a_running_path_is_taken_up_in_its_middle(folder: Path) -> None:
    """The continuation of a path that runs at this moment reads the path's own keys and values."""
    sampler = make(folder, max_running=8)
    first = Request("first", tuple(HEADER), replace(PARAMS, k=1, max_tokens=60))
    drawn = next(make(folder).stream([first])).token_ids
    taken = Request("taken", (*HEADER, *drawn[:20]), replace(PARAMS, k=2))

    def late() -> Iterator[Request]:
        yield first
        for i in range(8):  # nothing more is read while this many wait; by then the first path is well under way
            yield Request(f"wait {i}", tuple(b"%d and so on" % i), replace(PARAMS, k=7, max_tokens=6))
        yield taken

    found = paths(sampler.stream(late()))
    assert found["first", 0][0] == drawn
    alone = paths(make(folder).stream([taken]))
    assert {name: found[name] for name in alone} == alone
    waiting = 8 * len(b"0 and so on")
    assert sampler.stats.prefill_rows < len(HEADER) + waiting + 20, "the 20 drawn tokens were not computed again"


def test_stop_strings_end_a_path_across_token_borders(folder: Path) -> None:
    """The tokens are bytes: a stop of several bytes lies across as many tokens."""
    request = Request("s", tuple(HEADER), replace(PARAMS, k=6, max_tokens=80))
    whole = {g.sample_index: g for g in make(folder).stream([request])}
    tokenizer = make(folder).tokenizer
    alphabet = tokenizer.token_bytes()
    stops = []
    for generation in whole.values():
        drawn = [alphabet[t] for t in generation.token_ids]
        threes = [drawn[i : i + 3] for i in range(10, len(drawn) - 3)]
        stops += [b"".join(three).decode() for three in threes if all(b and b.isascii() for b in three)][:1]
    assert stops, "the model draws three ASCII bytes in a row"
    stopped = make(folder).stream([replace(request, params=replace(request.params, stop=tuple(stops)))])
    reasons = set()
    for g in stopped:
        full = whole[g.sample_index]
        assert g.token_ids == full.token_ids[: len(g.token_ids)]
        assert g.logprobs == full.logprobs[: len(g.token_ids)]
        text = tokenizer.decode(g.token_ids)
        reasons.add(g.finish_reason)
        if g.finish_reason == "stop":
            at = min(text.find(s) for s in stops if s in text)
            assert g.text == text[:at] and not any(s in g.text for s in stops)
            assert not any(s in tokenizer.decode(g.token_ids[:-1]) for s in stops), "not a token later than need be"
        else:
            assert not any(s in text for s in stops) and g.text == text
    assert "stop" in reasons


def test_eos_ends_a_path_and_is_not_in_its_text(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_llama(tmp_path / "eos")
    tensors = load_file(other / "model.safetensors")
    tensors["lm_head.weight"][EOS] += 0.2 * torch.randn(64, generator=torch.Generator().manual_seed(1))
    tensors["lm_head.weight"][EOS] *= 1.5
    save_file(tensors, other / "model.safetensors")
    params = replace(PARAMS, k=30, max_tokens=40, temperature=1.0)
    ended = [g for g in make(other).generate(["Q: "], params)[0] if g.finish_reason == "eos"]
    assert ended
    for g in ended:
        assert g.token_ids[-1] == EOS and EOS not in g.token_ids[:-1] and len(g.logprobs) == len(g.token_ids)
        assert g.text == make(other).tokenizer.decode(g.token_ids[:-1])
    ignored = make(other).generate(["Q: "], replace(params, ignore_eos=True))[0]
    assert all(g.finish_reason == "length" and len(g.token_ids) == 40 for g in ignored)
    for g in ended:
        assert ignored[g.sample_index].token_ids[: len(g.token_ids)] == g.token_ids


def test_paths_end_at_max_tokens_and_at_the_end_of_the_context(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "short", context=64)
    params = SamplingParams(max_tokens=10, ignore_eos=True)
    (short,), (long,), (least,) = make(folder).generate([[1] * 20, [1] * 60, [1] * 63], params)
    assert [(len(g.token_ids), g.finish_reason) for g in (short, long, least)] == [
        (10, "length"),
        (4, "length"),
        (1, "length"),
    ]
    with pytest.raises(UserError, match=r"has 64 tokens and the model's context is 64"):
        make(folder).generate([[1] * 64], params)


def test_generate_keeps_the_order_and_serves_equal_prompts_alike(folder: Path) -> None:
    sampler = make(folder)
    prompts = ["second", "first", "second", sampler.tokenizer.encode("first")]
    drawn = sampler.generate(prompts, PARAMS)
    assert [[g.sample_index for g in each] for each in drawn] == [[0, 1, 2, 3]] * 4
    assert drawn[0] == drawn[2] and drawn[1] == drawn[3] and drawn[0] != drawn[1]
    assert make(folder).generate(["first"], PARAMS)[0] == drawn[1]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((), "the prompt is empty"),
        ((1, 257), "token 257 is outside"),
        ((-1,), "outside"),
        ((1,) * 512, "context is 512"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_refused(folder: Path, tokens: tuple[int, ...], message: str) -> None:
    sampler = make(folder)
    with pytest.raises(UserError, match=f"request 'q': .*{message}"):
        list(sampler.stream([Request("fine", (1, 2)), Request("q", tokens)]))
    assert len(list(sampler.stream([Request("fine", (1, 2), PARAMS)]))) == 4, "the sampler goes on"


def test_too_little_memory_for_one_sequence_is_refused_and_enough_suffices(folder: Path) -> None:
    request = Request("q", tuple(HEADER), replace(PARAMS, max_tokens=60, ignore_eos=True))
    need = -(-(len(HEADER) + 60) // 16) + 1
    with pytest.raises(UserError, match=f"needs {need} KV pages .* there are {need - 1}: give more with --kv-memory"):
        list(make(folder, pages=need - 1).stream([request]))
    assert paths(make(folder, pages=need).stream([request])) == paths(make(folder).stream([request]))


def test_damaged_weights_are_named_as_the_cause(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "nan")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="request 'q': the model gives NaN logits"):
        list(make(folder).stream([Request("q", (1, 2, 3))]))


def test_an_interrupted_step_leaves_nothing_that_looks_computed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = make(folder)
    expected = paths(make(folder).stream(requests()))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sampler.decoder, "forward", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(sampler.stream(requests()))
    monkeypatch.undo()
    sampler.tree.check()
    assert paths(sampler.stream(requests())) == expected


def test_a_stream_given_up_half_way_leaves_the_sampler_as_good_as_new(folder: Path) -> None:
    sampler = make(folder, max_running=4)
    stream = sampler.stream(requests())
    next(stream)
    with pytest.raises(UserError, match="close its other stream"):
        sampler.generate(["meanwhile"])
    stream.close()  # type: ignore[attr-defined]
    sampler.tree.check()
    assert sampler.tree.pinned_pages() == 0
    assert paths(sampler.stream(requests())) == paths(make(folder).stream(requests()))


def test_a_stream_that_is_not_closed_takes_nothing_from_the_next(folder: Path) -> None:
    """Its last path has been given out, so nothing is being drawn; closing it must not end what another one draws."""
    sampler = make(folder)
    first = sampler.stream([Request("first", (1, 2, 3), replace(PARAMS, k=1))])
    next(first)
    with pytest.raises(UserError, match="close its other stream"):
        list(sampler.stream(requests()))
    first.close()  # type: ignore[attr-defined]
    assert paths(sampler.stream(requests())) == paths(make(folder).stream(requests()))


def test_settings_of_the_machine_are_checked(folder: Path) -> None:
    with pytest.raises(UserError, match="threads is 0"):
        make(folder, threads=0)
    with pytest.raises(UserError, match="unknown dtype 'int8'"):
        make(folder, "int8")
    with pytest.raises(UserError, match="unknown backend 'magic'"):
        make(folder, backend="magic")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch sees no GPU"):
            make(folder, device="cuda")


def test_the_plain_reference_backend_draws_the_same_paths(folder: Path) -> None:
    few = [replace(r, samples=(0,), params=replace(r.params, max_tokens=8)) for r in requests()[:3]]
    reference = make(folder, backend="reference")
    assert {name for name, _ in reference.decoder.ops.backends.values()} == {"reference", "torch"}
    found, wanted = paths(reference.stream(few)), paths(make(folder).stream(few))
    assert {n: p[0] for n, p in found.items()} == {n: p[0] for n, p in wanted.items()}
    for name, (_, logprobs) in found.items():
        assert logprobs == pytest.approx(wanted[name][1], abs=1e-4)


SCRIPT = """
import json, sys
from rftfast.engine import Request, Sampler, SamplingParams
sampler = Sampler.from_pretrained(sys.argv[1], dtype="float32", kv_memory=400 * 8192, threads=1, max_running=3)
params = SamplingParams(k=6, temperature=0.9, max_tokens=60, seed=3)
for name, sample in (("a", b"Q: one and one? A:"), ("d", b"Another thing altogether")):
    for g in sampler.stream([Request(name, tuple(sample), params)]):
        print(json.dumps([g.name, g.sample_index, g.token_ids, [x.hex() for x in g.logprobs]]), flush=True)
"""


def test_a_fresh_process_draws_the_same_after_one_was_killed(folder: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        before = [json.loads(killed.stdout.readline()) for _ in range(2)]
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    after = [json.loads(line) for line in again.stdout.splitlines()]
    assert len(after) == 12 and all(path in after for path in before)
    params = SamplingParams(k=6, temperature=0.9, max_tokens=60, seed=3)
    here: list[Generation] = list(make(folder).stream([Request("a", tuple(b"Q: one and one? A:"), params)]))
    in_this_process = [[g.name, g.sample_index, list(g.token_ids), [x.hex() for x in g.logprobs]] for g in here]
    assert sorted(in_this_process) == sorted(path for path in after if path[0] == "a")
