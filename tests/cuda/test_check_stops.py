"""What a token means for its path, in the emulator against plain torch."""

import torch

from rftfast.ops import stops


def test_as_reference(on_emulator):
    g = torch.Generator().manual_seed(0)
    n, vocab = 300, 97  # three blocks, the last not full
    tables = torch.randint(4, (3, vocab), generator=g, dtype=torch.uint8)
    token = torch.randint(-1, vocab, (n,), generator=g)
    drawn = torch.randint(9, (n,), generator=g, dtype=torch.int32)
    limit = torch.randint(1, 10, (n,), generator=g, dtype=torch.int32)
    table = torch.randint(3, (n,), generator=g, dtype=torch.int32)
    results = []
    for backend in (stops.reference, stops.cuda):
        counted, flags = drawn.clone(), torch.full((n,), 255, dtype=torch.uint8)
        assert backend(token, counted, limit, tables, table, flags) is flags
        results.append((counted, flags))
    for got, want in zip(results[1], results[0], strict=True):
        assert torch.equal(got, want)
    assert set(results[0][1].tolist()) == {0, 1, 2, 3, 4, 5, 6, 7, 8}


def test_the_flags_are_those_of_the_module(on_emulator):
    module = on_emulator.module
    assert (module.EOS, module.TEXT, module.LENGTH, module.NO_TOKEN) == (
        stops.EOS,
        stops.TEXT,
        stops.LENGTH,
        stops.NO_TOKEN,
    )


def test_no_paths(on_emulator):
    nothing = [torch.empty(0, dtype=t) for t in (torch.int64, torch.int32, torch.int32)]
    tables, table = torch.zeros(1, 5, dtype=torch.uint8), torch.empty(0, dtype=torch.int32)
    assert stops.cuda(*nothing, tables, table, torch.empty(0, dtype=torch.uint8)).shape == (0,)
