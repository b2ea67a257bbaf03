"""The work list on the device: changed words are scattered into it, and every row goes one token on.

Both are tiny; they are kernels so that a step needs one copy from the host, of the changes alone, and so that the next
step can start before the host knows what the last one drew.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rftfast.kernels.variant import Variant


@triton.jit(do_not_specialize=["count"])
def scatter_words(
    buffer,  # [words] int32
    delta,  # [count, 2] int32: place, value
    count,
    BLOCK: tl.constexpr,
):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = offs < count
    place = tl.load(delta + 2 * offs, mask=here, other=0)
    tl.store(buffer + place, tl.load(delta + 2 * offs + 1, mask=here, other=0), mask=here)


@triton.jit(do_not_specialize=["count", "idle_slot"])
def begin_step(
    counts,  # [rows, tiles] int32
    rows,  # [max_rows, 4] int32: page table, keys, keys in the prefix, unused
    tables,  # [T, table_width] int32 page ids
    positions,  # [count] int32
    slots,  # [count] int64
    count,
    table_width,
    idle_slot,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < tl.load(counts)
    position = tl.load(rows + row * 4 + 1, mask=live, other=0)  # the new token's: the keys so far are its past
    table = tl.load(rows + row * 4, mask=live, other=0).to(tl.int64)
    page = tl.load(tables + table * table_width + position // PAGE, mask=live, other=0).to(tl.int64)
    tl.store(rows + row * 4 + 1, position + 1, mask=live)
    tl.store(positions + row, position, mask=row < count)
    tl.store(slots + row, tl.where(live, page * PAGE + position % PAGE, idle_slot), mask=row < count)


def variants() -> list[Variant]:
    step = {"counts": "*i32", "rows": "*i32", "tables": "*i32", "positions": "*i32", "slots": "*i64"}
    step |= {"count": "i32", "table_width": "i32", "idle_slot": "i64"}
    words = {"buffer": "*i32", "delta": "*i32", "count": "i32"}
    return [
        Variant("scatter_words", scatter_words, words, {"BLOCK": 256}, unaligned=("count",)),
        Variant("begin_step", begin_step, step, {"PAGE": 16, "BLOCK": 128}, unaligned=("count", "idle_slot")),
    ]
