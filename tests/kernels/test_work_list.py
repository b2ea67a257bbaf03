"""The list on the device: where deltas go, and where each row's next token stands and is written."""

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
from rftfast.engine.work_list import WorkList
from rftfast.ops.work import DecodeWork, WorkShape
from tests.triton_device import DEVICE

SHAPE = WorkShape(max_rows=300, tables=302, table_width=4, group=2, tile_m=16, split_pages=4)


def test_deltas_are_scattered():
    work, device = WorkList(SHAPE), DecodeWork.allocate(SHAPE, 2, 16, DEVICE)
    rng = np.random.default_rng(0)
    for step in range(4):
        for key in range(80):
            work.join(100 * step + key, 75 * step + key % 75, rng.integers(0, 1000, 3).tolist(), 40, 2)
            if key % 3 == 0:
                work.leave(100 * step + key)
        delta = work.take_delta()
        assert len(delta) > 256, "more than one program"
        device.apply(torch.from_numpy(delta).to(DEVICE))
        assert np.array_equal(device.buffer.cpu().numpy(), work.buffer)
    device.apply(torch.empty((0, 2), dtype=torch.int32, device=DEVICE))


@pytest.mark.parametrize("rows", [0, 1, 128, 150])
def test_every_row_goes_one_token_on(rows):
    """Over three steps, two of which begin a page for some; rows beyond the list's get the idle slot."""
    work, device = WorkList(SHAPE), DecodeWork.allocate(SHAPE, 2, 16, DEVICE)
    tables = {key: [4 * key, 4 * key + 1, 4 * key + 2, 4 * key + 3] for key in range(rows)}
    keys = {key: 1 + key % 60 for key in range(rows)}
    for key in range(rows):
        work.join(key, rows - 1 - key, tables[key], keys[key], 0)
    device.apply(torch.from_numpy(work.take_delta()).to(DEVICE))
    for step in range(3):
        positions = torch.full((160,), -1, dtype=torch.int32, device=DEVICE)
        slots = torch.full((160,), -1, dtype=torch.int64, device=DEVICE)
        device.begin_step(positions, slots, idle_slot=(1 << 40) + 5)
        work.begin_step()
        assert np.array_equal(device.buffer.cpu().numpy(), work.buffer)
        at = [keys[key] - 1 + step for key in range(rows)]
        assert positions.tolist() == at + [0] * (160 - rows)
        assert slots.tolist() == [tables[k][p // 16] * 16 + p % 16 for k, p in enumerate(at)] + [(1 << 40) + 5] * (
            160 - rows
        )
