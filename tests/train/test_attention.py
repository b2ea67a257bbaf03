"""Packed rows against one document at a time, through transformers' own models: hidden states, loss and gradients."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rftfast.errors import UserError
from rftfast.train import segment_attention
from rftfast.train.attention import NAME, use_packed_attention
from rftfast.train.batch import collate
from rftfast.train.loss import batch_loss
from rftfast.train.packing import Row, Unit
from tests.train.made import SIZES, families, made_documents, tiny


def alone(model, documents):
    """The sum of the losses of documents fed one by one, by the model's own attention and transformers' own loss."""
    total = 0
    for document in documents:
        ids = torch.from_numpy(document.tokens).long()[None]
        logits = model(input_ids=ids, use_cache=False).logits[0]
        n = document.prompt_length
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        total = total + torch.nn.functional.cross_entropy(logits[n - 1 : -1], ids[0, n:], reduction="sum")
    return total


@pytest.mark.parametrize("family", families())
def test_packed_is_one_document_at_a_time(family):
    documents = made_documents(3, paths=1)
    model = tiny(family).double()
    want = alone(model, documents)
    want_grads = torch.autograd.grad(want, list(model.parameters()))
    use_packed_attention(model)
    got = batch_loss(model, collate(Row(tuple(Unit((d,)) for d in documents), 1000)))
    got_grads = torch.autograd.grad(got, list(model.parameters()))
    # Many architectures compute their norms in float32, whatever the model's dtype.
    assert abs(got.item() - want.item()) < 1e-6 * want.item()
    for (name, _), a, b in zip(model.named_parameters(), got_grads, want_grads, strict=True):
        assert (a - b).norm() < 1e-5 * b.norm() + 1e-6, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_within_rounding_in_shorter_dtypes(dtype):
    documents = made_documents(4, paths=1)
    model = tiny("qwen2").to(dtype)
    want = alone(model, documents)
    want_grads = torch.autograd.grad(want, list(model.parameters()))
    use_packed_attention(model)
    got = batch_loss(model, collate(Row(tuple(Unit((d,)) for d in documents), 1000), multiple=64))
    got_grads = torch.autograd.grad(got, list(model.parameters()))
    bound = 1e-5 if dtype == torch.float32 else 0.02
    assert abs(got.item() - want.item()) < bound * abs(want.item())
    for a, b in zip(got_grads, want_grads, strict=True):
        assert (a - b).norm() <= 3 * bound * b.norm() + 1e-7


def test_order_of_documents_does_not_matter_for_any_of_them():
    documents = made_documents(4, paths=1)
    model = tiny("llama")
    use_packed_attention(model)
    with torch.no_grad():
        one, other = (
            batch_loss(model, collate(Row(tuple(Unit((d,)) for d in some), 1000)))
            for some in (documents, documents[::-1])
        )
    torch.testing.assert_close(one, other)


def test_a_dummy_row_has_no_loss_and_zero_gradients():
    model = tiny("llama")
    use_packed_attention(model)
    loss = batch_loss(model, collate(Row((), 100)))
    loss.backward()
    assert loss.item() == 0
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)
    assert model.lm_head.weight.grad is not None


def test_recomputed_layers_give_the_same_gradients():
    batch = collate(Row(tuple(Unit((d,)) for d in made_documents(3, paths=1)), 1000))
    model = tiny("llama")
    use_packed_attention(model)
    model.train()
    want = torch.autograd.grad(batch_loss(model, batch), list(model.parameters()))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    got = torch.autograd.grad(batch_loss(model, batch), list(model.parameters()))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_compiled_layers_take_any_layout_in_one_graph():
    """Without breaks at the attention, and without a new graph for each row."""
    import torch._dynamo.testing

    model = tiny("llama")
    use_packed_attention(model)
    rows = [collate(Row(tuple(Unit((d,)) for d in made_documents(n, paths=1, seed=n)), 1000)) for n in (3, 4, 5, 6)]
    want = [batch_loss(model, row).item() for row in rows]
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    for layer in model.model.layers:
        layer.forward = torch.compile(layer.forward, backend=counter, dynamic=True, fullgraph=True)
    got = [batch_loss(model, row).item() for row in rows]
    assert got == pytest.approx(want, rel=1e-5)
    assert counter.frame_count <= 2 * len(model.model.layers)
    torch._dynamo.reset()


def test_attention_is_switched_or_refused():
    model = tiny("llama")
    use_packed_attention(model)
    assert model.config._attn_implementation == NAME
    with pytest.raises(UserError, match="does not hand keywords down"):
        model(input_ids=torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gemma2", {"attn_logit_softcapping": 50.0}, "soft cap on attention"),
        ("llama", {"attention_dropout": 0.1}, "dropout 0.1"),
        ("mistral", {"sliding_window": 8}, "window of 8"),
    ],
)
def test_what_attention_cannot_do_is_refused(family, changes, message):
    config = AutoConfig.for_model(family, **{**SIZES, **changes})
    model = AutoModelForCausalLM.from_config(config)
    use_packed_attention(model)
    model.train()
    with pytest.raises(UserError, match=message):
        batch_loss(model, collate(Row(tuple(Unit((d,)) for d in made_documents(2, paths=1)), 1000)))


def test_backends_are_chosen_by_device_and_dtype(monkeypatch):
    choose = segment_attention.backend.__wrapped__
    assert choose("cpu", torch.float64) == "cpu"
    monkeypatch.setattr(segment_attention.importlib.util, "find_spec", lambda name: None)
    assert choose("cuda", torch.bfloat16) == "torch"
    monkeypatch.setattr(segment_attention.importlib.util, "find_spec", lambda name: object())
    assert choose("cuda", torch.float16) == "flash-attn"
    with pytest.raises(UserError, match="float32"):
        choose("cuda", torch.float32)
    with pytest.raises(UserError, match="mps"):
        choose("mps", torch.bfloat16)


def segments(dtype=torch.float32, device="cpu"):
    """Queries, keys, values and where their segments lie, not causal."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(n, heads, 16, dtype=dtype, device=device) for n, heads in ((14, 4), (9, 2), (9, 2)))
    cu_q, cu_k = (torch.tensor(x, dtype=torch.int32, device=device) for x in ([0, 5, 14], [0, 7, 9]))
    return q, k, v, segment_attention.Segments(cu_q, cu_k, 9, 7, causal=False)


def test_torchs_operators_for_cuda_take_what_they_are_given(monkeypatch):
    """On meta tensors: shapes and arguments, not values."""
    monkeypatch.setattr(segment_attention, "backend", lambda device, dtype: "torch")
    q, k, v, where = segments(torch.bfloat16, "meta")
    out, lse = segment_attention.forward(q, k, v, where, 0.25)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, (4, 14), torch.float32)
    grads = segment_attention.backward(out, q, k, v, out, lse, where, 0.25)
    assert [grad.shape for grad in grads] == [q.shape, k.shape, v.shape]


def test_flash_attn_gets_its_arguments_in_order(monkeypatch):
    """A stand-in with flash-attn 2.8's signatures, computed by the CPU's backend."""
    import sys
    import types

    def part(cu_q, cu_k, max_q, max_k, causal):
        return segment_attention.Segments(cu_q, cu_k, max_q, max_k, causal)

    def varlen_forward(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal,
        window_size_left=-1, window_size_right=-1, softcap=0.0, alibi_slopes=None, return_softmax=False,
        block_table=None, leftpad_k=None, seqused_k=None, zero_tensors=False,
    ):  # fmt: skip
        assert dropout_p == 0
        where = part(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal)
        return (*segment_attention._cpu_forward(q, k, v, where, softmax_scale), None, None)

    def varlen_backward(
        dout, q, k, v, out, softmax_lse, dq, dk, dv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p,
        softmax_scale, causal, window_size_left, window_size_right, softcap, alibi_slopes, deterministic,
        rng_state=None, zero_tensors=False,
    ):  # fmt: skip
        assert (dropout_p, window_size_left, window_size_right, softcap, alibi_slopes) == (0, -1, -1, 0, None)
        assert deterministic is False
        where = part(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal)
        found = segment_attention._cpu_backward(dout, q, k, v, out, softmax_lse, where, softmax_scale)
        for whole, grad in zip((dq, dk, dv), found, strict=True):
            whole.copy_(grad)

    module = types.ModuleType("flash_attn.flash_attn_interface")
    module._flash_attn_varlen_forward, module._flash_attn_varlen_backward = varlen_forward, varlen_backward
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.flash_attn_interface", module)
    q, k, v, where = segments()
    want, want_lse = segment_attention.forward(q, k, v, where, 0.25)
    want_grads = segment_attention.backward(want, q, k, v, want, want_lse, where, 0.25)
    monkeypatch.setattr(segment_attention, "backend", lambda device, dtype: "flash-attn")
    got, lse = segment_attention.forward(q, k, v, where, 0.25)
    grads = segment_attention.backward(got, q, k, v, got, lse, where, 0.25)
    for a, b in zip((got, lse, *grads), (want, want_lse, *want_grads), strict=True):
        assert torch.equal(a, b)
