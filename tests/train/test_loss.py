"""Head and loss in one against plain logits and cross-entropy: values, gradients, memory, architectures."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rftfast.errors import UserError
from rftfast.train import cross_entropy
from rftfast.train.attention import use_packed_attention
from rftfast.train.batch import collate
from rftfast.train.cross_entropy import Transform, linear_cross_entropy, token_logprobs
from rftfast.train.loss import batch_logprobs, batch_loss, check_head, split_head
from rftfast.train.packing import Row, Unit
from tests.train.made import families, made_documents, tiny

TRANSFORMS = [Transform(), Transform(0.5), Transform(2.0, 4.0)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks of several blocks, the last ones not full."""
    monkeypatch.setattr(cross_entropy, "_CHUNK_BYTES", {"cpu": 8 * 101 * 20})
    monkeypatch.setattr(cross_entropy, "_BLOCK_BYTES", {"cpu": 8 * 101 * 7})


def made(dtype, *, bias=False, tokens=75, vocabulary=101, width=24):
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, width, dtype=dtype), torch.randn(vocabulary, width, dtype=dtype)
    labels = torch.randint(0, vocabulary, (tokens,))
    labels[::3] = -100
    operands = [hidden, weight] + ([torch.randn(vocabulary, dtype=dtype)] if bias else [])
    return [x.requires_grad_() for x in operands], labels, torch.rand(tokens)


def plain(operands, labels, transform):
    """[N] cross-entropy, 0 without a label, by way of all logits."""
    logits = F.linear(*operands) * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    return F.cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=str)
def test_exact_against_plain_logits(dtype, bound, bias, transform):
    operands, labels, weights = made(dtype, bias=bias)
    more = {"bias": operands[2] if bias else None, "transform": transform}
    want = (plain(operands, labels, transform) * weights).sum() * 0.7
    want_grads = torch.autograd.grad(want, operands)
    fused = linear_cross_entropy(*operands[:2], labels, token_weights=weights, **more) * 0.7
    by_token = -(token_logprobs(*operands[:2], labels, **more) * weights).sum() * 0.7
    for got in (fused, by_token):
        assert abs(got.item() - want.item()) < bound * want.item()
        for a, b in zip(torch.autograd.grad(got, operands), want_grads, strict=True):
            assert (a - b).norm() < bound * b.norm()


def test_without_weights_and_without_gradients():
    operands, labels, _ = made(torch.float64)
    want = plain(operands, labels, Transform()).sum()
    torch.testing.assert_close(linear_cross_entropy(*operands, labels), want)
    with torch.no_grad():
        found = linear_cross_entropy(*operands, labels)
    assert not found.requires_grad
    torch.testing.assert_close(found, want)
    operands[1].requires_grad_(False)  # a frozen head
    (grad,) = torch.autograd.grad(linear_cross_entropy(*operands, labels), operands[:1])
    torch.testing.assert_close(grad, torch.autograd.grad(want, operands[:1])[0])


def test_bf16_products_with_float32_sums():
    operands, labels, weights = made(torch.float32, tokens=300)
    rounded = [x.detach().bfloat16().requires_grad_() for x in operands]
    exact = [x.detach().double().requires_grad_() for x in rounded]
    want = (plain(exact, labels, Transform()) * weights).sum()
    want_grads = torch.autograd.grad(want, exact)
    got = linear_cross_entropy(*rounded, labels, token_weights=weights)
    assert got.dtype == torch.float32
    assert abs(got.item() - want.item()) < 2e-3 * want.item()
    for a, b in zip(torch.autograd.grad(got, rounded), want_grads, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.double() - b).norm() < 0.01 * b.norm()
    # A float32 weight under bf16 hidden states is rounded for the products; its gradient comes in float32.
    weight = rounded[1].detach().float().requires_grad_()
    mixed = linear_cross_entropy(rounded[0], weight, labels, token_weights=weights)
    assert mixed.item() == got.item()
    assert torch.autograd.grad(mixed, weight)[0].dtype == torch.float32


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_the_kernel_of_gpus_is_exact_too(monkeypatch, bias, transform):
    """In Triton's interpreter where there is no GPU."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from tests.triton_device import DEVICE

    operands, labels, weights = made(torch.float32, bias=bias)
    more = {"bias": operands[2] if bias else None, "transform": transform}
    want = (plain(operands, labels, transform) * weights).sum()
    want_grads = torch.autograd.grad(want, operands)
    monkeypatch.setattr(cross_entropy, "backend", lambda device, dtype: "triton")
    monkeypatch.setattr(cross_entropy, "_CHUNK_BYTES", dict.fromkeys(("cpu", "cuda"), 4 * 101 * 20))
    there = [x.detach().to(DEVICE).requires_grad_() for x in operands]
    more["bias"] = there[2] if bias else None
    fused = linear_cross_entropy(*there[:2], labels.to(DEVICE), token_weights=weights.to(DEVICE), **more)
    by_token = -(token_logprobs(*there[:2], labels.to(DEVICE), **more) * weights.to(DEVICE)).sum()
    for got in (fused, by_token):
        assert abs(got.item() - want.item()) < 2e-6 * want.item()
        for a, b in zip(torch.autograd.grad(got, there), want_grads, strict=True):
            assert (a.cpu() - b).norm() < 2e-6 * b.norm()


def test_who_computes_the_losses(monkeypatch):
    choose = cross_entropy.backend.__wrapped__
    monkeypatch.setattr(cross_entropy.importlib.util, "find_spec", lambda name: object())
    assert [choose("cuda", torch.bfloat16), choose("cuda", torch.float64)] == ["triton", "torch"]
    assert choose("cpu", torch.bfloat16) == "torch"
    monkeypatch.setattr(cross_entropy.importlib.util, "find_spec", lambda name: None)
    assert choose("cuda", torch.bfloat16) == "torch"


def test_no_labels_no_loss():
    operands, labels, _ = made(torch.float32)
    loss = linear_cross_entropy(*operands, torch.full_like(labels, -100))
    assert loss.item() == 0
    assert all((grad == 0).all() for grad in torch.autograd.grad(loss, operands))
    assert (token_logprobs(*operands, torch.full_like(labels, -100)) == 0).all()


def test_a_probability_below_float32_is_no_infinite_loss():
    hidden = torch.tensor([[1.0], [1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [500.0], [100.0]], requires_grad=True)
    for found in (
        linear_cross_entropy(hidden, weight, torch.tensor([0, 2])),
        -token_logprobs(hidden, weight, torch.tensor([0, 2])).sum(),
    ):
        assert found.item() == pytest.approx(900)
        assert torch.autograd.grad(found, hidden)[0].tolist() == [[500], [400]]


class Peak(TorchDispatchMode):
    """The most bytes of tensors alive at a time, of those made under it."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        import weakref

        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                key = storage._cdata
                if key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.gone, key)
        self.peak = max(self.peak, self.now)
        return out

    def gone(self, key):
        self.now -= self.alive.pop(key)


def test_memory_is_an_eighth_of_plain_logits(monkeypatch):
    monkeypatch.setattr(cross_entropy, "_CHUNK_BYTES", {"cpu": 1 << 20})
    operands, labels, _ = made(torch.float32, tokens=2048, vocabulary=4096, width=32)
    peaks = []
    for run in (lambda: plain(operands, labels, Transform()).sum(), lambda: linear_cross_entropy(*operands, labels)):
        with Peak() as peak:
            run().backward()
        peaks.append(peak.peak)
    assert peaks[0] > 2048 * 4096 * 4  # the measure sees the logits
    assert peaks[1] < peaks[0] / 8


def test_the_default_chunk_is_far_from_all_tokens(monkeypatch):
    monkeypatch.undo()
    hidden, weight = (torch.empty(n, 8, dtype=torch.bfloat16) for n in (4096, 49152))
    assert cross_entropy._Chunks(hidden, weight, None, torch.zeros(4096), Transform()).chunk * 8 <= 4096


@pytest.mark.parametrize("family", families())
def test_heads_of_many_architectures(family):
    model = tiny(family)
    use_packed_attention(model)
    check_head(model, collate(Row(tuple(Unit((d,)) for d in made_documents(2, paths=1)), 100)))


def test_a_head_with_something_unknown_is_refused():
    model = tiny("llama")
    use_packed_attention(model)
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 3)
    with pytest.raises(UserError, match=r"Llama.*not those of a linear layer"):
        check_head(model, collate(Row((Unit((made_documents(1, paths=1)[0],)),), 100)))


def test_models_without_a_head_are_refused():
    from transformers import BertConfig, BertModel

    bert = BertModel(
        BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    with pytest.raises(UserError, match=r"BertModel.*causal"):
        split_head(bert)


def test_tied_embeddings_get_both_gradients():
    documents = made_documents(2, paths=1)
    model = tiny("qwen2").double()
    use_packed_attention(model)
    batch = collate(Row(tuple(Unit((d,)) for d in documents), 100))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    (got,) = torch.autograd.grad(batch_loss(model, batch), [model.lm_head.weight])
    logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, packed=batch.layout).logits[0]
    (want,) = torch.autograd.grad(F.cross_entropy(logits, batch.labels, reduction="sum"), [model.lm_head.weight])
    assert (got - want).norm() < 1e-6 * want.norm()


def test_loss_is_the_sum_of_log_probabilities():
    batch = collate(Row(tuple(Unit((d,)) for d in made_documents(3, paths=1)), 100))
    model = tiny("llama")
    use_packed_attention(model)
    with torch.no_grad():
        assert math.isclose(batch_loss(model, batch).item(), -batch_logprobs(model, batch).sum().item(), rel_tol=1e-5)
