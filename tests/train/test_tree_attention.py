"""A prompt packed once with all its paths against separate documents: attention, loss and gradients, tokens saved."""

import itertools

import numpy as np
import pytest
import torch

from rftfast.train.attention import use_packed_attention
from rftfast.train.batch import collate
from rftfast.train.documents import Document
from rftfast.train.loss import batch_logprobs, batch_loss
from rftfast.train.packing import Row, Unit, plan_steps
from rftfast.train.tree_attention import Layout, TreeMask, _attention, packed_attention
from tests.train.made import made_documents, tiny


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


# Prefixes of 3 and 5, paths of 2 + 4 and 1 + 1 + 6, then documents of 7 and 2.
LAYOUT = Layout(ints(0, 3, 8, 10, 14, 15, 16, 22, 29, 31), 7, 11, TreeMask(8, 22, ints(0, 6, 14), ints(0, 3, 8), 8, 5))


def mask_of(layout: Layout) -> torch.Tensor:
    """[T, T], whether row t attends to column s, written down position by position."""
    bounds = layout.cu_seqlens.tolist()
    mask = torch.zeros(bounds[-1], bounds[-1], dtype=torch.bool)
    for a, b in itertools.pairwise(bounds):
        mask[a:b, a:b] = torch.ones(b - a, b - a, dtype=torch.bool).tril()
    tree = layout.tree
    prefixes, paths = tree.cu_prefixes.tolist(), tree.cu_paths.tolist()
    for i in range(len(prefixes) - 1):
        mask[tree.prefix_end + paths[i] : tree.prefix_end + paths[i + 1], prefixes[i] : prefixes[i + 1]] = True
    return mask


def plain(q, k, v, mask, scale):
    """Softmax attention with a dense mask; shapes as for packed_attention."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, float("-inf")).softmax(-1), v)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.02)], ids=str
)
def test_attention_follows_the_mask(dtype, bound):
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(31, heads, 16, dtype=dtype) for heads in (4, 2, 2, 4))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    got = packed_attention(q, k, v, LAYOUT, 0.3)
    got_grads = torch.autograd.grad(got, inputs, grad)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    want = plain(*exact, mask_of(LAYOUT), 0.3)
    want_grads = torch.autograd.grad(want, exact, grad.double())
    for a, b in zip((got, *got_grads), (want, *want_grads), strict=True):
        assert (a.double() - b).norm() < bound * b.norm()


def test_gradient_is_that_of_finite_differences():
    torch.manual_seed(1)
    q, k, v = (torch.randn(31, heads, 2, dtype=torch.float64, requires_grad=True) for heads in (2, 1, 1))
    assert torch.autograd.gradcheck(lambda *x: packed_attention(*x, LAYOUT, 0.7), (q, k, v), fast_mode=True)


def test_the_operator_keeps_torchs_contract():
    torch.manual_seed(0)
    q, k, v = (torch.randn(31, heads, 4, requires_grad=True) for heads in (2, 1, 1))
    tree = LAYOUT.tree
    sizes = [tree.prefix_end, tree.path_end, tree.max_paths, tree.max_prefix]
    torch.library.opcheck(_attention, (q, k, v, LAYOUT.cu_seqlens, 7, 0.3, tree.cu_paths, tree.cu_prefixes, sizes))
    torch.library.opcheck(_attention, (q, k, v, LAYOUT.cu_seqlens, 7, 0.3, None, None, []))


def shared_and_apart(documents: list[Document]):
    """The same documents as a batch with shared prompts and as one without."""
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(document.group, []).append(document)
    shared = Row(tuple(Unit(tuple(group)) for group in groups.values()), 1000)
    return collate(shared), collate(Row(tuple(Unit((document,)) for document in documents), 1000))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "phi", "gpt2"])
def test_shared_prompts_give_the_loss_and_gradients_of_separate_documents(family):
    documents = made_documents(3, paths=4) + made_documents(2, paths=1, seed=9)
    rng = np.random.default_rng(0)
    documents = [
        Document(f"d{i}", d.tokens, d.prompt_length, f"{d.group}/{len(d)}" if i > 11 else d.group, w)
        for i, d in enumerate(documents)
        for w in [rng.random(len(d), dtype=np.float32)]
    ]
    shared, apart = shared_and_apart(documents)
    assert shared.tree is not None and apart.tree is None
    assert shared.input_ids.numel() < apart.input_ids.numel()
    assert (shared.response_tokens, shared.useful_tokens) == (apart.response_tokens, apart.useful_tokens)
    model = tiny(family).double()
    use_packed_attention(model)
    losses = [batch_loss(model, batch) for batch in (shared, apart)]
    grads = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    assert abs(losses[0].item() - losses[1].item()) < 1e-6 * losses[1].item()
    for (name, _), a, b in zip(model.named_parameters(), *grads, strict=True):
        assert (a - b).norm() < 1e-5 * b.norm() + 1e-6, name


def test_in_float32_and_bf16_within_rounding():
    shared, apart = shared_and_apart(made_documents(3, paths=4))
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        model = tiny("llama").to(dtype)
        use_packed_attention(model)
        losses = [batch_loss(model, batch) for batch in (shared, apart)]
        grads = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
        assert abs(losses[0].item() - losses[1].item()) < bound * losses[1].item()
        for a, b in zip(*grads, strict=True):
            assert (a - b).norm() < 3 * bound * b.norm()


def test_log_probabilities_of_each_path():
    documents = made_documents(2, paths=3)
    shared, apart = shared_and_apart(documents)
    model = tiny("llama").double()
    use_packed_attention(model)
    with torch.no_grad():
        got, want = (batch_logprobs(model, batch) for batch in (shared, apart))
    # Labels come in the same order in both: by question, path and token.
    torch.testing.assert_close(got[shared.labels != -100], want[apart.labels != -100], rtol=1e-5, atol=1e-6)


def test_tokens_saved_on_data_like_rft_u13b(gsm8k_dir):
    """13 paths a question besides the gold one, as long as gold solutions are; see the paper's Table 2 and section 3.3."""
    from rftfast.data.questions import load_questions

    rng = np.random.default_rng(0)
    questions = load_questions(gsm8k_dir / "train.jsonl", limit=1000)
    answers = [len(question.answer) // 3 for question in questions]
    documents = []
    for question in questions:
        n = len(question.question) // 4 + 5  # about as many tokens as a tokenizer makes of it
        prompt = rng.integers(0, 50, n)
        for path, length in enumerate(rng.choice(answers, 13)):
            tokens = np.concatenate([prompt, np.zeros(length + 2)]).astype(np.int32)
            documents.append(Document(f"{question.id}/{path}", tokens, n, question.id))
    steps = plan_steps(documents, budget_tokens=4096, documents_per_step=128, seed=0, epoch=0, paths_together=13)
    fed, useful = (sum(getattr(step, name) for step in steps) for name in ("tokens", "useful_tokens"))
    assert 0.25 < 1 - fed / useful < 0.45
