"""Choosing backends: what was asked for by name runs or is an error; what was chosen is named."""

import dataclasses
import logging
import sys

import pytest
import torch

from rftfast.errors import UserError
from rftfast.ops import (
    OpSet,
    attention,
    copy_pages,
    cuda,
    linear,
    native,
    rms_norm,
    rope,
    sample,
    select,
    stops,
    swiglu,
)

MODULES = {
    "attention": attention,
    "copy_pages": copy_pages,
    "rms_norm": rms_norm,
    "rope_write_kv": rope,
    "sample": sample,
    "swiglu": swiglu,
}
WHY_NOT = "the native module is not built (for a test)"


@pytest.fixture
def without_native(monkeypatch):
    monkeypatch.setattr(native, "available", lambda: WHY_NOT)


def assert_backend(ops, name):
    for op, module in MODULES.items():
        assert getattr(ops, op) is getattr(module, name), op
        assert ops.backends[op][0] == name


def test_auto_takes_the_native_kernels_and_says_which():
    if native.available():
        pytest.skip(native.available())
    ops = select("cpu")
    assert_backend(ops, "native")
    assert native.load().isa() in ops.backends["attention"][1]
    assert_backend(select("cpu", backend="native"), "native")


def test_reference_by_name():
    ops = select("cpu", backend="reference")
    assert_backend(ops, "reference")
    assert ops.backends["attention"][1] == "asked for"


def test_auto_without_native_says_why(without_native):
    ops = select("cpu")
    assert_backend(ops, "reference")
    assert {ops.backends[op][1] for op in MODULES} == {WHY_NOT}
    assert ops.backends["check_stops"] == ("reference", "there is no kernel of it for cpu")  # nor with native kernels


def test_native_by_name_that_cannot_run_is_an_error(without_native):
    with pytest.raises(UserError) as caught:
        select("cpu", backend="native")
    assert WHY_NOT in str(caught.value)


@pytest.fixture
def with_gpu(monkeypatch):
    """As if this machine had a GPU and all kernels."""
    monkeypatch.setattr(cuda, "available", lambda device: None)
    monkeypatch.setattr(cuda, "triton_available", lambda device: None)
    monkeypatch.setattr("rftfast.ops._describe", lambda name: f"{name} for a test")


def test_native_on_a_gpu_is_an_error():
    with pytest.raises(UserError, match=r"native.*cuda"):
        select("cuda", backend="native")


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_gpu_kernels_on_a_cpu_are_an_error(backend):
    with pytest.raises(UserError, match=f"'{backend}' cannot run.*not on cpu"):
        select("cpu", backend=backend)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_gpu_kernels_without_a_gpu_say_what_is_missing(backend, monkeypatch):
    if backend == "cuda":
        monkeypatch.setattr(cuda, "load", lambda: None)  # built or not
    with pytest.raises(UserError, match=f"'{backend}' cannot run: (torch finds no CUDA device|.*is not installed)"):
        select("cuda", backend=backend)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_auto_on_cuda_without_kernels_says_why_and_warns(caplog):
    with caplog.at_level(logging.WARNING):
        ops = select("cuda:1")
    assert_backend(ops, "reference")
    assert all(why for _, why in ops.backends.values())
    warned = " ".join(r.message for r in caplog.records)
    assert "sample on cuda:1 runs as plain torch" in warned


def test_auto_on_cuda_takes_the_kernels_there_are(with_gpu, caplog):
    with caplog.at_level(logging.WARNING):
        ops = select("cuda")
    want = {"copy_pages": "cuda", "sample": "cuda", "check_stops": "cuda"}
    want |= {"rms_norm": "triton", "rope_write_kv": "triton", "swiglu": "triton"}
    assert {op: ops.backends[op][0] for op in want} == want
    for op, name in want.items():
        module = stops if op == "check_stops" else MODULES[op]
        assert getattr(ops, op) is getattr(module, name)
    assert not [r for r in caplog.records if any(op in r.message for op in want)]


@pytest.mark.parametrize("lacking", ["triton", "cuda"])
def test_one_kind_of_gpu_kernels_missing(with_gpu, monkeypatch, lacking):
    monkeypatch.setattr(cuda, {"triton": "triton_available", "cuda": "available"}[lacking], lambda device: WHY_NOT)
    ops = select("cuda")
    for op in ("copy_pages", "sample", "check_stops", "rms_norm", "rope_write_kv", "swiglu"):
        name, why = ops.backends[op]
        assert name != lacking
        assert (why == WHY_NOT) == (name == "reference"), op
    assert ops.backends["sample"][0] == ("reference" if lacking == "cuda" else "cuda")
    with pytest.raises(UserError) as caught:
        select("cuda", backend=lacking)
    assert WHY_NOT in str(caught.value)
    other = {"triton": "cuda", "cuda": "triton"}[lacking]
    assert select("cuda", backend=other).backends == ops.backends


def test_triton_is_a_package_that_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cuda.triton_available() == "the package 'triton' is not installed"


def test_cuda_kernels_that_are_not_built(monkeypatch):
    def load():
        raise ImportError("No module named 'rftfast._cuda'")

    monkeypatch.setattr(cuda, "load", load)
    reason = cuda.available("cuda")
    assert "not built" in reason
    assert "RFTFAST_CUDA" in reason
    assert "\n" not in reason


@pytest.mark.parametrize("name", ["", "vulkan", "Native", "CUDA"])
def test_unknown_backend_names_the_choices(name):
    with pytest.raises(UserError) as caught:
        select("cpu", backend=name)
    assert "auto, native, triton, cuda or reference" in str(caught.value)
    assert f"'{name}'" in str(caught.value)


def test_linear_follows_invariant():
    for invariant, form in ((True, linear.invariant), (False, linear.plain)):
        ops = select("cpu", backend="reference", invariant=invariant)
        assert ops.linear is form
        assert ops.backends["linear"][0] == "torch"
        assert ("padded" in ops.backends["linear"][1]) == invariant


def test_every_operation_has_its_backend_and_reason():
    ops = select("cpu")
    callables = {f.name for f in dataclasses.fields(OpSet)} - {"backends", "prepare", "prepare_layer", "quantization"}
    assert set(ops.backends) == callables
    assert all(name and why for name, why in ops.backends.values())


def test_head_dim_the_kernels_cannot_serve() -> None:
    assert select("cpu", head_dim=24).backends["attention"][0] == "reference"
    assert "multiple of 16" in select("cpu", head_dim=24).backends["attention"][1]
    with pytest.raises(UserError, match="multiple of 16"):
        select("cpu", backend="native", head_dim=24)
