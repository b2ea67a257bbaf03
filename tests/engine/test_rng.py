"""From names to keys, and from keys to noise: published vectors, the definition, float64."""

import subprocess
import sys

import numpy as np
import pytest

from rftfast.engine.rng import sample_key, signed64
from rftfast.ops import philox

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, expected):
    got = philox.philox4x32(np.array(counter, np.uint32), key[0] | key[1] << 32)
    assert tuple(int(w) for w in got) == expected


def test_each_token_has_its_own_word_of_its_own_counter():
    key, t, sample, stream = 0x0123456789ABCDEF, 7, 41, 3
    got = philox.words(key, t, sample, stream, 11)
    for i in range(11):
        block = philox.philox4x32(np.array([i // 4, t, sample, stream], np.uint32), key)
        assert got[i] == block[i % 4]


def test_noise_depends_on_every_part_of_the_name():
    base = philox.gumbel(5, 1, 2, 3, 64)
    for other in ((6, 1, 2, 3), (5 + (1 << 32), 1, 2, 3), (5, 0, 2, 3), (5, 1, 0, 3), (5, 1, 2, 0)):
        assert (philox.gumbel(*other, 64) != base).all()
    assert np.array_equal(philox.gumbel(5, 1, 2, 3, 10), base[:10])


def test_noise_is_right_in_both_tails_and_between():
    edges = np.arange(20_000, dtype=np.uint64)
    middle = np.linspace(0, 2**32 - 1, 200_001).astype(np.uint64)
    branch = np.uint64(1257966796) + edges - np.uint64(10_000)  # v near 1 - sqrt(1/2)
    half = np.uint64(1 << 31) + edges - np.uint64(10_000)
    u = np.concatenate([edges, np.uint64(ONES) - edges, middle, branch, half]).astype(np.uint32)
    exact = -np.log(-np.log1p(-(u.astype(np.float64) + 0.5) / 2**32))
    error = np.abs(philox.gumbel_of_words(u) - exact) / np.maximum(1, np.abs(exact))
    assert error.max() < 4e-7
    largest, least = philox.gumbel_of_words(np.array([0, ONES], np.uint32))
    assert largest == pytest.approx(33 * np.log(2), rel=1e-6)
    assert least == pytest.approx(-np.log(33 * np.log(2)), rel=1e-6)


def test_noise_has_the_moments_of_a_gumbel_variable():
    g = philox.gumbel(1, 0, 0, 0, 1_000_000).astype(np.float64)
    assert g.mean() == pytest.approx(0.5772156649, abs=0.005)
    assert g.var() == pytest.approx(np.pi**2 / 6, abs=0.02)


def test_key_is_blake2b_of_seed_and_question():
    # Fixed for good: other numbers would change every sample ever drawn.
    assert sample_key(0, "") == 0x9E38E4B70CC4BDD1
    assert sample_key(1234, "gsm8k-17") == 0x8EB160CAB06A8958
    assert sample_key(-1, "Wie viele Äpfel?") == 0x7DC07361EAF9E21D


def test_keys_of_different_names_differ():
    names = [(seed, q) for seed in (0, 1, 11, -1) for q in ("", "1", "11", "\0", "q", "Q", "\ud800")]
    assert len({sample_key(*name) for name in names}) == len(names)
    assert all(0 <= sample_key(*name) < 1 << 64 for name in names)


def test_signed64_keeps_the_bits():
    for key in (0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        signed = signed64(key)
        assert -(1 << 63) <= signed < 1 << 63
        assert signed % (1 << 64) == key
    with pytest.raises(AssertionError):
        signed64(1 << 64)


def test_rng_module_loads_without_torch():
    code = (
        "import importlib.util, sys; from pathlib import Path; import rftfast;"
        "path = Path(rftfast.__file__).parent / 'engine' / 'rng.py';"
        "spec = importlib.util.spec_from_file_location('rng', path); m = importlib.util.module_from_spec(spec);"
        "spec.loader.exec_module(m); assert m.sample_key(0, 'q'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
