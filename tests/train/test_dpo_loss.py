"""Losses and gradients of packed pairs: against plain torch over whole logits, against TRL, and packed in other ways."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rftfast.train.attention import use_packed_attention
from rftfast.train.documents import Document
from rftfast.train.objective import Objective
from rftfast.train.packing import Row
from rftfast.train.preference_batch import collate_pairs
from rftfast.train.preference_documents import Pair
from rftfast.train.preference_loss import PairLoss, Sums, completion_logprobs
from rftfast.train.preference_packing import PairUnit, pair_units
from tests.train.made import VOCABULARY, tiny

SETTINGS = {
    "sigmoid": (Objective(beta=0.3), 0.0),
    "smoothed": (Objective(beta=0.3, label_smoothing=0.2), 0.0),
    "ipo": (Objective("ipo", beta=0.4), 0.0),
    "sigmoid and sft": (Objective(beta=0.1), 0.7),
}


def made_pairs(*, weighted: bool, questions: int = 3, each: int = 2, seed: int = 0, prompt: int = 3) -> list[Pair]:
    """``each`` pairs a question with prompts of ``prompt`` to 12 tokens; with weights of tokens and pairs, zeros among them."""
    rng = np.random.default_rng(seed)
    found = []
    for q in range(questions):
        start = rng.integers(2, VOCABULARY, rng.integers(prompt, 13) if prompt > 1 else 1)
        for p in range(each):
            sides = []
            for side in ("chosen", "rejected"):
                tokens = np.concatenate([start, rng.integers(2, VOCABULARY, rng.integers(2, 15))]).astype(np.int32)
                weights = None
                if weighted and side == "rejected":
                    weights = rng.choice([0, 0.5, 1, 2], len(tokens)).astype(np.float32)
                    weights[-1] = 1.5
                sides.append(Document(f"q{q}.{p}/{side}", tokens, len(start), f"q{q}", weights))
            found.append(Pair(f"q{q}.{p}", sides[0], sides[1], float(rng.choice([0.5, 1, 3])) if weighted else 1.0))
    return found


def plain_logprobs(model: Any, document: Document) -> tuple[torch.Tensor, float]:
    """Of one completion by itself, over the matrix of all logits; and the sum of its weights."""
    tokens = torch.from_numpy(document.tokens.astype(np.int64))
    logits = model(tokens[None]).logits[0, :-1]
    each = logits.log_softmax(-1).gather(1, tokens[1:, None])[document.prompt_length - 1 :, 0]
    weights = np.ones(len(tokens), np.float32) if document.weights is None else document.weights
    kept = torch.from_numpy(weights[document.prompt_length :])
    return (each * kept).sum(), float(kept.sum())


def plain_loss(model: Any, pairs: Sequence[Pair], reference: dict[str, float], objective: Objective, sft: float) -> Any:
    """Mean over pairs, from the papers' formulas."""
    losses, supervised = [], []
    for pair in pairs:
        ratios = []
        for document in pair.documents:
            logprob, length = plain_logprobs(model, document)
            ratios.append((logprob - reference[document.id]) / (length if objective.loss == "ipo" else 1))
            if document is pair.chosen:
                supervised.append(-pair.weight * logprob)
        margin = ratios[0] - ratios[1]
        if objective.loss == "ipo":
            loss = (margin - 1 / (2 * objective.beta)) ** 2
        else:
            right, wrong = torch.sigmoid(objective.beta * margin), torch.sigmoid(-objective.beta * margin)
            loss = -(1 - objective.label_smoothing) * right.log() - objective.label_smoothing * wrong.log()
        losses.append(pair.weight * loss)
    tokens = sum(pair.chosen.response_tokens for pair in pairs)
    return sum(losses) / len(pairs) + sft * sum(supervised) / tokens


def packed_loss(
    model: Any,
    pairs: Sequence[Pair],
    units: Sequence[PairUnit],
    reference: dict[str, float],
    objective: Objective,
    sft: float,
) -> tuple[Any, Sums]:
    scale = sft * len(pairs) / sum(pair.chosen.response_tokens for pair in pairs)
    total, sums = PairLoss(objective)(model, collate_pairs(Row(tuple(units), 10**6), reference, scale))
    return total / len(pairs), Sums(*sums.tolist())


def models(family: str = "llama") -> tuple[Any, Any, Any]:
    """Policy with packed attention, the same with transformers' own, and a reference that is another model."""
    packed = tiny(family)
    use_packed_attention(packed)
    return packed, tiny(family), tiny(family, seed=1)


def reference_of(model: Any, pairs: Sequence[Pair]) -> dict[str, float]:
    with torch.no_grad():
        return {d.id: float(plain_logprobs(model, d)[0]) for pair in pairs for d in pair.documents}


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_close(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> None:
    whole = math.sqrt(sum(float(x.square().sum()) for x in wanted))
    assert whole > 1e-3
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= 2e-5 * whole


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    ("setting", "family"),
    [*((setting, "llama") for setting in SETTINGS), ("sigmoid and sft", "qwen2"), ("sigmoid and sft", "gpt2")],
)
def test_loss_and_gradients_are_those_of_the_formulas(setting, weighted, family):
    objective, sft = SETTINGS[setting]
    packed, plain, other = models(family)
    pairs = made_pairs(weighted=weighted)
    reference = reference_of(other, pairs)
    wanted = plain_loss(plain, pairs, reference, objective, sft)
    found, _ = packed_loss(packed, pairs, pair_units(pairs, 10**6), reference, objective, sft)
    assert found.item() == pytest.approx(wanted.item(), rel=2e-5)
    assert_close(gradients(packed, found), gradients(plain, wanted))


@pytest.mark.parametrize("setting", SETTINGS)
def test_shared_prompts_are_separate_ones(setting):
    objective, sft = SETTINGS[setting]
    packed, _, other = models()
    pairs = made_pairs(weighted=True, questions=2, each=3)
    reference = reference_of(other, pairs)
    together, apart = pair_units(pairs, 10**6), [PairUnit.of([pair]) for pair in pairs]
    assert sum(unit.tokens for unit in together) < sum(unit.tokens for unit in apart)
    found = packed_loss(packed, pairs, together, reference, objective, sft)
    wanted = packed_loss(packed, pairs, apart, reference, objective, sft)
    assert found[0].item() == pytest.approx(wanted[0].item(), rel=2e-5)
    assert found[1].values() == pytest.approx(wanted[1].values(), rel=1e-4, abs=1e-4)
    assert_close(gradients(packed, found[0]), gradients(packed, wanted[0]))


def test_a_completion_of_several_pairs_stands_in_the_row_once():
    packed, plain, other = models()
    first, second = made_pairs(weighted=False, questions=1)
    again = Document(second.chosen.id, first.chosen.tokens, first.chosen.prompt_length, first.chosen.group)
    pairs = [first, Pair(second.id, again, second.rejected)]
    (unit,) = pair_units(pairs, 10**6)
    assert len(unit.documents) == 3 and unit.places == ((0, 1), (0, 2))
    reference = reference_of(other, pairs)
    objective = Objective(beta=0.3)
    wanted = plain_loss(plain, pairs, reference, objective, 0.5)
    found, _ = packed_loss(packed, pairs, [unit], reference, objective, 0.5)
    assert_close(gradients(packed, found), gradients(plain, wanted))


def test_prompts_of_one_token_share_nothing():
    packed, plain, other = models()
    pairs = [*made_pairs(weighted=True, prompt=1), *made_pairs(weighted=True, questions=1, seed=5)]
    pairs = [Pair(f"{i}", *p.documents, p.weight) for i, p in enumerate(pairs)]
    reference = reference_of(other, pairs)
    wanted = plain_loss(plain, pairs, reference, Objective(), 0.0)
    found, _ = packed_loss(packed, pairs, [PairUnit.of([pair]) for pair in pairs], reference, Objective(), 0.0)
    assert_close(gradients(packed, found), gradients(plain, wanted))


def test_what_is_reported():
    packed, plain, other = models()
    pairs = made_pairs(weighted=True)
    reference = reference_of(other, pairs)
    with torch.no_grad():
        _, sums = packed_loss(packed, pairs, pair_units(pairs, 10**6), reference, Objective(beta=0.3), 0.0)
        now = reference_of(plain, pairs)
    ratios = [[now[d.id] - reference[d.id] for d in pair.documents] for pair in pairs]
    assert sums.chosen_reward == pytest.approx(0.3 * sum(c for c, _ in ratios), rel=1e-3)
    assert sums.rejected_reward == pytest.approx(0.3 * sum(r for _, r in ratios), rel=1e-3)
    assert sums.correct == sum(c > r for c, r in ratios) and 0 < sums.correct < len(pairs)
    assert sums.moved == pytest.approx(-sum(c + r for c, r in ratios), rel=1e-3)
    assert sums.weight == sum(pair.weight for pair in pairs)
    assert sums.sft == pytest.approx(-sum(pair.weight * now[pair.chosen.id] for pair in pairs), rel=1e-4)


@pytest.mark.parametrize("objective", [Objective(), Objective(label_smoothing=0.3), Objective("ipo", beta=0.2)])
def test_at_the_start_the_loss_is_known(objective):
    packed, plain, _ = models()
    pairs = made_pairs(weighted=True)
    reference = reference_of(plain, pairs)
    with torch.no_grad():
        _, sums = packed_loss(packed, pairs, pair_units(pairs, 10**6), reference, objective, 0.0)
    assert sums.loss / sums.weight == pytest.approx(objective.at_start, rel=1e-4)
    assert objective.at_start == pytest.approx(6.25 if objective.loss == "ipo" else math.log(2))


def test_a_row_without_pairs_has_no_gradient():
    packed, _, _ = models()
    total, sums = PairLoss(Objective())(packed, collate_pairs(Row((), 100)))
    assert total.item() == 0 and sums.tolist() == [0.0] * 7
    assert all(not gradient.any() for gradient in gradients(packed, total))


def test_logprobs_of_completions():
    packed, plain, _ = models()
    pairs = made_pairs(weighted=True)
    batch = collate_pairs(Row(tuple(pair_units(pairs, 10**6)), 10**6))
    with torch.no_grad():
        found = dict(zip(batch.ids, completion_logprobs(packed, batch).tolist(), strict=True))
    assert found == pytest.approx(reference_of(plain, pairs), rel=1e-4)


@pytest.fixture(scope="module")
def trl():
    for name in ("trl", "datasets"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install trl)")
    return pytest.importorskip("trl")


@pytest.mark.parametrize("setting", ["sigmoid", "ipo", "sigmoid and sft"])
def test_gradients_are_trls(trl, setting, tmp_path):
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from tests.train.tiny_run import write_model

    objective, sft = SETTINGS[setting]
    packed, policy, other = models()
    pairs = made_pairs(weighted=False, questions=4, each=1)

    class AsTheyAre(trl.DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    data = Dataset.from_list(
        [
            {
                "prompt_ids": p.chosen.tokens[: p.chosen.prompt_length].tolist(),
                "chosen_ids": p.chosen.tokens[p.chosen.prompt_length :].tolist(),
                "rejected_ids": p.rejected.tokens[p.rejected.prompt_length :].tolist(),
            }
            for p in pairs
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(write_model(tmp_path / "model") / "tokenizer.json"), eos_token="<end>", pad_token="<end>"
    )
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path),
        beta=objective.beta,
        loss_type=[objective.loss, "sft"] if sft else [objective.loss],
        loss_weights=[1.0, sft] if sft else None,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
    )
    trainer = AsTheyAre(
        model=policy,
        ref_model=other,
        args=arguments,
        data_collator=DataCollatorForPreference(pad_token_id=0),
        train_dataset=data,
        processing_class=tokenizer,
    )
    wanted = trainer.compute_loss(policy, trainer.data_collator(list(data)))
    found, _ = packed_loss(packed, pairs, pair_units(pairs, 10**6), reference_of(other, pairs), objective, sft)
    assert found.item() == pytest.approx(wanted.item(), rel=2e-5)
    assert_close(gradients(packed, found), gradients(policy, wanted))


def test_sums_add():
    a, b = Sums(*range(7)), Sums(*itertools.repeat(0.5, 7))
    assert (a + b).values() == tuple(i + 0.5 for i in range(7))


@pytest.mark.parametrize(
    "objective", [Objective(beta=0.3), Objective(beta=0.3, label_smoothing=0.2), Objective("ipo", 0.2)]
)
def test_what_noise_in_the_margins_may_do_to_the_first_loss(objective):
    """The loss of margins that are not quite 0 stays within what is allowed for noise of their size, and close to it."""
    for size in (0.01, 0.5, 2.0):
        for margins in (torch.full((4,), size), torch.full((4,), -size), torch.tensor([size, -size, size, size])):
            moved = abs(float(objective(margins.double()).mean()) - objective.at_start)
            assert moved <= objective.moved_by(abs(float(margins.mean())), size) + 1e-12
        largest = abs(float(objective(torch.full((4,), -size).double()).mean()) - objective.at_start)
        assert largest >= 0.5 * objective.moved_by(size, size)
