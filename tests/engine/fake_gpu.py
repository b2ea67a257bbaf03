"""A CPU in a GPU's place: work waits until somebody waits for it, and graphs are tapes of operations on fixed memory.

What goes wrong with a real one only now and then goes wrong here at once: memory of the host that is filled anew before
it was read, results read before they are there or overwritten before they are copied, values that a captured step took
from the host when it was captured, and rows that read what nobody wrote (fresh memory holds NaN).
"""

from __future__ import annotations

import dataclasses
import functools
import random
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from rftfast import ops as operations
from rftfast.ops import KVPool, OpSet
from rftfast.ops.attention import WorkPlan
from rftfast.ops.kv import PAGE
from rftfast.ops.work import DecodeWork

_FRESH = {torch.ops.aten.empty.memory_format, torch.ops.aten.empty_like.default, torch.ops.aten.new_empty.default}


class Tape(TorchDispatchMode):
    """The operations done under it: torch's one by one, and ``whole`` functions as one."""

    active: Tape | None = None

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []
        self.paused = False

    def __enter__(self) -> Tape:
        assert Tape.active is None
        Tape.active = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Tape.active = None
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.paused:
            assert func is not torch.ops.aten._local_scalar_dense.default, "a captured step reads a value back"
        out = func(*args, **kwargs)
        if not self.paused:
            self.entries.append((func, args, kwargs, out))
        return out

    def whole(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        assert not self.paused
        self.paused = True
        try:
            out = func(*args, **kwargs)
        finally:
            self.paused = False
        self.entries.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        """The same operations on the same memory; memory that is fresh in each is poisoned first."""
        for func, args, kwargs, out in self.entries:
            new = func(*args, **kwargs)
            for old, fresh in zip(tree_flatten(out)[0], tree_flatten(new)[0], strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != fresh.data_ptr():
                    old.copy_(poisoned(fresh) if func in _FRESH else fresh)


def poisoned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)


def whole(func: Callable[..., Any]) -> Callable[..., Any]:
    """``func`` may read values back (a reference does), for it stands for one kernel: on a tape it is one operation."""

    @functools.wraps(func)
    def call(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs) if Tape.active is None else Tape.active.whole(func, args, kwargs)

    return call


class FakeMark:
    def __init__(self, streams: FakeStreams, at: int, last: Callable[[], Any] | None = None) -> None:
        self.streams, self.at, self.last = streams, at, last

    def wait(self) -> None:
        self.streams.catch_up(self.at)
        if self.last is not None:
            self.last()
            self.last = None


class FakeStreams:
    """``Streams`` on a CPU. Work is done as late as it may be, or somewhat earlier, as ``seed`` has it."""

    def __init__(self, seed: int = 0) -> None:
        self.device = torch.device("cpu")
        self.work: list[Callable[[], Any]] = []
        self.done = 0
        self.captures: list[Tape] = []
        self.replays = self.eager = 0
        self._random = random.Random(seed)
        self._threads: set[int] = set()

    def use(self) -> None:
        self._threads.add(threading.get_ident())

    def _check_thread(self) -> None:
        assert threading.get_ident() in self._threads, "this thread has not said which device it uses"

    def host_memory(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        return poisoned(torch.empty(size, dtype=dtype))

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        assert target.shape == source.shape
        self._check_thread()
        self.work.append(functools.partial(target.copy_, source))

    def download(self, source: torch.Tensor, target: torch.Tensor) -> FakeMark:
        """Beside what follows: done when it is waited for, after whatever of that has been done by then."""
        assert target.shape == source.shape
        return FakeMark(self, len(self.work), functools.partial(target.copy_, source))

    def run(self, body: Callable[[], Any]) -> None:
        self._check_thread()
        self.eager += 1
        self.work.append(body)

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        self.catch_up(len(self.work))
        tape = Tape()
        with tape:
            body()
        self.captures.append(tape)

        def replay() -> None:
            self._check_thread()
            self.replays += 1
            self.work.append(tape.replay)

        return replay

    def mark(self) -> FakeMark:
        return FakeMark(self, len(self.work))

    def catch_up(self, at: int) -> None:
        goal = self._random.randint(at, len(self.work)) if self.done < at or self._random.random() < 0.5 else at
        while self.done < goal:
            self.work[self.done]()
            self.work[self.done] = lambda: None  # what it held may go
            self.done += 1


class FakeWork(DecodeWork):
    """``DecodeWork`` without Triton."""

    def apply(self, delta: torch.Tensor) -> None:
        assert delta.dtype == torch.int32
        places = delta[:, 0].long()
        assert len(places.unique()) == len(places), "a word twice"
        self.buffer[places] = delta[:, 1]

    def begin_step(self, positions: torch.Tensor, slots: torch.Tensor, idle_slot: int) -> None:
        _begin_step(self, positions, slots, idle_slot)


@whole
def _begin_step(work: DecodeWork, positions: torch.Tensor, slots: torch.Tensor, idle_slot: int) -> None:
    arrays, rows = work.arrays, int(work.arrays.counts[0])
    assert rows <= len(positions) == len(slots)
    keys = arrays.rows[:rows, 1]
    positions.zero_()
    slots.fill_(idle_slot)
    positions[:rows] = keys
    pages = arrays.tables[arrays.rows[:rows, 0].long(), (keys // PAGE).long()]
    slots[:rows] = pages.long() * PAGE + keys % PAGE
    keys += 1


def fake_ops() -> OpSet:
    """The references, with what the kernels do about idle rows."""
    ops = operations.select("cpu", backend="reference")
    names = ("rms_norm", "swiglu", "copy_pages", "check_stops", "linear")
    return dataclasses.replace(
        ops,
        **{name: whole(getattr(ops, name)) for name in names},
        attention=whole(attend),
        rope_write_kv=whole(functools.partial(_rope_write_kv, ops)),
        sample=whole(functools.partial(_sample, ops)),
    )


def _rope_write_kv(
    ops: OpSet, qkv: torch.Tensor, cos: Any, sin: Any, positions: torch.Tensor, slots: torch.Tensor, *rest: Any
) -> None:
    live = slots >= 0
    if not live.any():
        return
    part = qkv[live]
    ops.rope_write_kv(part, cos, sin, positions[live], slots[live], *rest)
    qkv[live] = part


def _sample(
    ops: OpSet, logits: torch.Tensor, row: torch.Tensor, *rest: torch.Tensor, stream: int
) -> tuple[torch.Tensor, torch.Tensor]:
    live = row >= 0
    token, logprob = torch.full((len(row),), -1), torch.full((len(row),), float("nan"))
    token[live], logprob[live] = ops.sample(logits, row[live], *(t[live] for t in rest), stream=stream)
    return token, logprob


def listed(plan: WorkPlan) -> list[tuple[list[int], int]]:
    """Each row's pages and keys, taken from where the kernels take them: its tiles in the prefix, its table behind."""
    shape, arrays = plan.work.shape, plan.work.arrays
    rows, tiles = arrays.counts[:2].tolist()
    prefixes: dict[int, dict[int, list[int]]] = {row: {} for row in range(rows)}
    for tile in range(tiles):
        entry, keys, split, _ = arrays.tiles[tile].tolist()
        heads = [h for h in arrays.tile_heads[tile].tolist() if h >= 0]
        assert heads and len(heads) % shape.group == 0
        for row in {h // shape.group for h in heads}:
            assert split not in prefixes[row], "a split twice"
            prefixes[row][split] = arrays.split_pages[entry, : keys // PAGE].tolist()
    found = []
    for row in range(rows):
        table, keys, prefix, _ = arrays.rows[row].tolist()
        pages = [page for split in sorted(prefixes[row]) for page in prefixes[row][split]]
        assert len(pages) * PAGE == prefix and sorted(prefixes[row]) == list(range(len(prefixes[row])))
        found.append((pages + arrays.tables[table, len(pages) : -(-keys // PAGE)].tolist(), keys))
    return found


def chunk_rows(plan: WorkPlan) -> dict[int, tuple[list[int], int]]:
    """Pages and keys of each row of the step that a chunk's tile has."""
    found: dict[int, tuple[list[int], int]] = {}
    for first, rows, position, table in plan.chunk_tiles.tolist() if plan.chunk_tiles is not None else ():
        for i in range(rows):
            keys = position + i + 1
            assert first + i not in found
            found[first + i] = plan.work.arrays.tables[table, : -(-keys // PAGE)].tolist(), keys
    return found


def attend(q: torch.Tensor, pool: KVPool, layer: int, plan: WorkPlan, scale: float, out: torch.Tensor) -> torch.Tensor:
    """``ops.attention`` for a ``WorkPlan``, row by row in float64; idle rows stay as they are."""
    heads, d = q.shape[1:]
    rows = dict(enumerate(listed(plan))) if plan.rows else {}
    assert len(rows) <= plan.rows
    for row, (pages, length) in (rows | chunk_rows(plan)).items():
        keys, values = (t.double() for t in pool.keys_values(layer, torch.tensor(pages), length))
        group = heads // keys.shape[1]
        scores = torch.einsum("hd,lhd->hl", q[row].double(), keys.repeat_interleave(group, 1)) * scale
        out[row] = torch.einsum("hl,lhd->hd", scores.softmax(-1), values.repeat_interleave(group, 1)).reshape(heads * d)
    return out
