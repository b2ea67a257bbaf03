"""Choosing backends: what was asked for by name runs or is an error; what was chosen is named."""

import dataclasses

import pytest

from rftfast.errors import UserError
from rftfast.ops import OpSet, attention, copy_pages, linear, native, rms_norm, rope, sample, select, swiglu

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
    assert {why for name, why in ops.backends.values() if name == "reference"} == {WHY_NOT}


def test_native_by_name_that_cannot_run_is_an_error(without_native):
    with pytest.raises(UserError) as caught:
        select("cpu", backend="native")
    assert WHY_NOT in str(caught.value)


def test_native_on_a_gpu_is_an_error():
    with pytest.raises(UserError, match=r"native.*cuda"):
        select("cuda", backend="native")
    ops = select("cuda:1")
    assert_backend(ops, "reference")
    assert "cuda" in ops.backends["attention"][1]


@pytest.mark.parametrize("name", ["", "triton", "Native", "cuda"])
def test_unknown_backend_names_the_choices(name):
    with pytest.raises(UserError) as caught:
        select("cpu", backend=name)
    assert "auto, native or reference" in str(caught.value)
    assert f"'{name}'" in str(caught.value)


def test_linear_follows_invariant():
    for invariant, form in ((True, linear.invariant), (False, linear.plain)):
        ops = select("cpu", backend="reference", invariant=invariant)
        assert ops.linear is form
        assert ops.backends["linear"][0] == "torch"
        assert ("padded" in ops.backends["linear"][1]) == invariant


def test_every_operation_has_its_backend_and_reason():
    ops = select("cpu")
    callables = {f.name for f in dataclasses.fields(OpSet)} - {"backends", "prepare"}
    assert set(ops.backends) == callables
    assert all(name and why for name, why in ops.backends.values())


def test_head_dim_the_kernels_cannot_serve() -> None:
    assert select("cpu", head_dim=24).backends["attention"][0] == "reference"
    assert "multiple of 16" in select("cpu", head_dim=24).backends["attention"][1]
    with pytest.raises(UserError, match="multiple of 16"):
        select("cpu", backend="native", head_dim=24)
