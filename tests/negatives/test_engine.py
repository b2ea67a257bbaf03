"""Rollouts drawn by the real engine: what it computes once, values against enumeration, stop strings across the border."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rftfast.engine import Generation, Request, Sampler
from rftfast.engine.monitor import DrawnPath
from rftfast.models.tokenizer import Tokenizer
from rftfast.negatives import rollouts
from rftfast.negatives.job import RolloutJob, RolloutOptions, prepare
from rftfast.negatives.judge import Border, RolloutJudge, Round
from rftfast.negatives.records import RolledQuestion
from rftfast.negatives.step_rows import read_rolled, write_steps
from rftfast.verify import Policy, cut, extract_answer
from tests.negatives.given_run import make_run
from tests.tiny_model import EOS, write_tiny_llama

DIGITS = "0123456789"


def roll(job: RolloutJob, sampler: Any, out: Path) -> tuple[list[RolledQuestion], bytes]:
    with rollouts.open_rollouts(job, sampler, out, {}) as directory:
        rollouts.run(job, sampler, directory, lambda progress: None)
    write_steps(out, job.source.order, best_of=1)
    return list(read_rolled(out)), (out / "steps.jsonl").read_bytes()


def make(folder: Path, *, pages: int = 800, **options: Any) -> Sampler:
    page_bytes = 2 * 2 * 2 * 16 * 16 * 4
    return Sampler.from_pretrained(folder, dtype="float32", kv_memory=pages * page_bytes, threads=1, **options)


class Watched:
    """A sampler that remembers what it was asked."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.requests: list[Request] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def stream(self, requests: Any, monitor: Any = None) -> Any:
        def noted() -> Any:
            for request in requests:
                self.requests += [request] if request is not None else []
                yield request

        return self.sampler.stream(noted(), monitor)


TEXTS = {
    "hats": [
        "two\nand three\nmake five\n#### 5",
        "two\nand four\n#### 6",
        "one\n#### 1",
        "two\nand three\nmake\n#### 8",
    ],
    "cats": ["a cat\nis a cat\n#### 9", "two cats\n#### 2"],
}


def test_a_response_is_computed_once_whatever_is_rolled_out_of_it(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    run = make_run(tmp_path, TEXTS, "7", model, max_tokens=60)
    job = prepare(RolloutOptions(run, rollouts=5, temperature=0.9))
    shared, private = Watched(make(model)), Watched(make(model, prefix_share=False))
    found, written = roll(job, shared, tmp_path / "shared")
    assert roll(job, private, tmp_path / "private")[1] == written
    contexts = {request.tokens[:n] for request in shared.requests for n in range(1, len(request.tokens))}
    assert shared.sampler.scheduler.prefill_tokens == len(contexts), "each token of the tree of prefixes, once"
    paths = [len(request.tokens) - 1 for request in shared.requests for _ in request.indices()]
    assert private.sampler.scheduler.prefill_tokens == sum(paths) > 20 * len(contexts)
    assert sum(len(q.states) for q in found) == len(shared.requests)


@pytest.mark.parametrize("options", [{"pages": 24}, {"max_running": 3}, {"pages": 30, "max_running": 40}])
def test_values_do_not_depend_on_the_batch_or_the_memory(tmp_path: Path, options: dict[str, Any]) -> None:
    model = write_tiny_llama(tmp_path / "model")
    run = make_run(tmp_path, TEXTS, "7", model, max_tokens=60)
    for bisect in (False, True):
        job = prepare(RolloutOptions(run, rollouts=4, bisect=bisect))
        _, expected = roll(job, make(model), tmp_path / f"plenty {bisect}")
        sampler = make(model, **options)
        assert roll(job, sampler, tmp_path / f"little {bisect}")[1] == expected
        sampler.tree.check()
        assert sampler.tree.pinned_pages() == 0


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that likes digits."""
    folder = write_tiny_llama(tmp_path_factory.mktemp("counting"), seed=3)
    tensors = load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_folder(folder)
    for digit in DIGITS:
        tensors["lm_head.weight"][tokenizer.encode(digit)[0]] *= 1.8
    save_file(tensors, folder / "model.safetensors")
    return folder


def enumerate_answers(folder: Path, prompt: tuple[int, ...], prefix: str, temperature: float, stops: Any) -> dict:
    """The chance of each answer when two more tokens are drawn after ``prompt``, from transformers' own probabilities."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_folder(folder)

    def chances(rows: list[list[int]]) -> torch.Tensor:
        with torch.no_grad():
            return (model(torch.tensor(rows)).logits[:, -1].double() / temperature).softmax(-1)

    first = chances([list(prompt)])[0]
    second = chances([[*prompt, a] for a in range(257)])
    found: dict[str, float] = {}
    for a in range(257):
        for b in range(257):
            drawn = [a] if a == EOS else [a, b]
            p = float(first[a]) * (float(second[a, b]) if a != EOS else float(b == 0))
            answer = extract_answer(cut(prefix + tokenizer.decode(drawn), stops))
            found[str(answer)] = found.get(str(answer), 0.0) + p
    assert sum(found.values()) == pytest.approx(1)
    return found


def test_values_are_those_of_enumeration(counting: Path, tmp_path: Path) -> None:
    n, temperature = 1000, 0.9
    text = "####\n7"  # with a space before it and an end 8 tokens; its first step leaves two to draw
    for name in ("probe", "real"):
        (tmp_path / name).mkdir()

    def job_of(name: str, gold: str) -> RolloutJob:
        run = make_run(tmp_path / name, {"x": [text]}, gold, counting, max_tokens=8, shots=0)
        return prepare(RolloutOptions(run, rollouts=n, temperature=temperature))

    probe = job_of("probe", "123456")
    prompt = probe.source.prompt(probe.source.read("x"), probe.tokenizer)
    start = (*prompt.tokens, *probe.tokenizer.encode(" ####\n"))
    exact = enumerate_answers(counting, start, "####\n", temperature, probe.params.stop)
    gold = max(set(exact) - {"None", "7"}, key=exact.__getitem__)
    q = exact[gold]
    assert 0.05 < q < 0.95, exact
    (question,), _ = roll(job_of("real", gold), make(counting), tmp_path / "out")
    (response,) = question.responses
    assert [response.text[:end] for end in response.ends] == ["####\n", text]
    value = question.values(response, best_of=1, level=0.999, interval="clopper-pearson")[1]
    assert value is not None and value.trials == n
    assert value.low <= q <= value.high
    seen = {r.answer for s in question.states for r in s.rollouts if s.tokens == 6}
    assert len(seen) > 5, "it is no model of one answer"


def test_early_stop_sees_the_answer_that_stands_before_the_border_in_its_line() -> None:
    """Where steps are sentences, a line's answer may stand in the prefix: the sampler would have ended behind that line."""
    alphabet = [bytes([i]) for i in range(256)]
    policy, prefix = Policy(), "Well.\nThe answer is 5."
    border = Border((), policy, early_stop=True)
    border.tails = {"a": prefix, "b": "The answer is 5\nor"}
    drawn = " So five it is.\nNo:\n#### 10\nBye"
    assert border(DrawnPath("a", 0, alphabet, drawn[: drawn.index("\n") + 1].encode())) == "answered"
    assert border(DrawnPath("b", 0, alphabet, b" not.\n")) is None, "a line before the last one was seen when it ended"
    assert border(DrawnPath("unknown", 0, alphabet, b" So five it is.\n")) is None
    with RolloutJudge(policy, (), early_stop=True) as judge, RolloutJudge(policy, (), early_stop=False) as patient:
        for text, reason in ((drawn, "length"), (drawn[: drawn.index("N")], "answered")):
            round_ = Round("q", 0, prefix, "10", (Generation("a", 0, text, (1, 2), (-1.0, -1.0), reason),))
            (found,) = judge.judged(round_)
            assert (found.text, found.right, found.answer) == (" So five it is.", False, "5")
            assert found.complete and found.tokens == 2
        (found,) = patient.judged(
            replace(round_, generations=(Generation("a", 0, drawn, (1, 2), (-1.0, -1.0), "eos"),))
        )
        assert (found.text, found.right) == (drawn, True)


def test_a_stop_string_that_begins_in_the_prefix_ends_a_rollout() -> None:
    alphabet = [bytes([i]) for i in range(256)]
    border = Border(("\n\n", "\nQuestion:"), Policy(), early_stop=False)
    border.tails = {"after a line": "so\n", "inside": "so"}

    def word(name: str, text: str) -> str | None:
        assert text.encode()[-1] in border.triggers
        return border(DrawnPath(name, 0, alphabet, text.encode()))

    assert word("after a line", "\n") == "stop"
    assert word("after a line", "Question:") == "stop"
    assert word("inside", "\n") is None
    assert word("after a line", "x\n") is None
    assert word("after a line", "a: Question:") is None
    assert word("unknown", "\n") is None
    # Where the monitor does not know of the prefix, what was drawn on is cut, and has ended there all the same.
    with RolloutJudge(Policy(), ("\n\n", "\nQuestion:"), early_stop=False) as judge:
        drawn = Generation("a", 0, "\n#### 7", (1, 2), (-1.0, -1.0), "length")
        (found,) = judge.judged(Round("q", 0, "#### 5\n", "5", (drawn,)))
    assert (found.text, found.right, found.complete) == ("", True, True)
