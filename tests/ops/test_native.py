"""Loading the C++ kernels, their instruction sets and their threads."""

import sys

import pytest
import torch

import rftfast
from rftfast.ops import native

needs_native = pytest.mark.skipif(native.available() is not None, reason=str(native.available()))


@needs_native
def test_instruction_sets_stand_best_first():
    library = native.load()
    names = library.isa_names()
    assert names == [n for n in ("amx", "avx512_bf16", "avx512", "avx2", "portable") if n in names]
    assert names[-1] == "portable"  # runs anywhere
    assert library.isa() == names[0]


@needs_native
def test_the_isa_fixture_sets_each(isa):
    assert native.load().isa() == isa


@needs_native
@pytest.mark.parametrize("name", ["avx9000", "", "AVX2"])
def test_unknown_instruction_set(name):
    library = native.load()
    before = library.isa()
    if name == "":  # means "the best"
        library.set_isa(name)
        assert library.isa() == library.isa_names()[0]
    else:
        with pytest.raises(ValueError, match=name):
            library.set_isa(name)
    assert library.isa() == before


@needs_native
def test_threads_go_to_torch_and_to_the_kernels():
    before = torch.get_num_threads()
    try:
        for n in (1, 2):
            native.set_threads(n)
            assert torch.get_num_threads() == n
            assert native.load().threads() == (n if native.openmp_library() else 1)
    finally:
        native.set_threads(before)


@needs_native
def test_the_kernels_run_on_torchs_own_openmp():
    """One pool of threads: the library found is one that this process has mapped, by torch."""
    name = native.openmp_library()
    if name is None:
        pytest.skip("this torch runs on no OpenMP with GOMP_parallel")
    assert "omp" in name
    assert "/" not in name


@needs_native
def test_loading_twice_gives_one_module():
    assert native.load() is native.load()
    assert native.available() is None


def test_a_missing_module_is_explained(monkeypatch):
    monkeypatch.delattr(rftfast, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "rftfast._native", None)  # importing it raises ImportError
    native.load.cache_clear()
    try:
        reason = native.available()
    finally:
        native.load.cache_clear()
    assert reason is not None
    assert reason.startswith("the native module is not built")
    assert "\n" not in reason


def test_no_pointer_for_nothing():
    tensor = torch.ones(3)
    assert native.pointer(None) == 0
    assert native.pointer(tensor) == tensor.data_ptr()
