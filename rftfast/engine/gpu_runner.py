"""Runs steps on a GPU. Between two steps the host sends changes, and the device knows the rest.

A step in which every row is being decoded is one replay of a CUDA graph: rows go one token on, read the token that the
step before drew, run through the model, are drawn from, and leave tokens, log-probabilities and flags behind. Graphs are
captured at the start, the one with most rows first, for a few numbers of rows; rows between are filled up with idle ones,
which write nowhere that anyone reads. A step with rows of prompts too is a graph if many rows are being decoded; else it is
launched operation by operation, on the same kernels and the same memory.

So the host can launch a step before it has the tokens of the one before (``Sampler``'s ``ahead``), and what it sends is a
handful of words for each path that comes or takes a page.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rftfast.engine.path_state import NewPath, PathShape, PathState, RowState
from rftfast.engine.runner import STREAM_TOKENS, Launched, Noise
from rftfast.engine.scheduler import SequenceState, Step
from rftfast.engine.streams import CudaStreams, Mark, Streams
from rftfast.engine.tree import PAGE, UNKNOWN, KVTree
from rftfast.engine.work_list import WorkList, chunk_tiles
from rftfast.errors import UserError
from rftfast.models.decoder import Decoder, StepInputs
from rftfast.ops import KVPool
from rftfast.ops.attention import WorkPlan
from rftfast.ops.stops import EOS, TEXT
from rftfast.ops.work import COUNT_ROWS, ROW_TABLE, DecodeWork, WorkShape

_log = logging.getLogger(__name__)

STOP_TABLES = 64
CHUNK_ROWS = (64, 256, 1024)  # rows of prompts that have a graph, beside the most rows being decoded
IDLE_PLACE = -1  # of an idle row: its keys and values are not written
_IN_FLIGHT = 3  # steps with buffers of their own: one runs, one waits behind it, one is being prepared


def buckets(most: int) -> list[int]:
    """Numbers of rows that have a graph, ascending; ``most`` is the last. Of a large one less than a third is idle."""
    sizes = [8, 16, 32, 64, 128, 256, *range(384, 1024, 128), *range(1024, 2048, 256), *range(2048, most, 512)]
    return [*(size for size in sizes if size < most), most]


@dataclass(frozen=True)
class Mixed:
    """A step with rows of prompts: ``decode`` rows of the work list, then ``chunk`` rows in ``tiles`` tiles."""

    decode: int
    chunk: int
    tiles: int


def step_shapes(
    max_running: int, max_rows: int, pages: int, max_positions: int, group: int
) -> tuple[WorkShape, PathShape]:
    """Capacities of the work list and, behind it in the same buffer, of the path state. ``group``: query heads of each
    key/value head."""
    width = min(pages, -(-max_positions // PAGE))
    work = WorkShape.plan(max_running, max_running + max_rows, width, group)
    return work, PathShape(work.words, max_running, max_rows)


class _Buffers:
    """What one step reads of the host and writes to it; used again when its work is done."""

    def __init__(self, streams: Streams, results: torch.Tensor) -> None:
        self.streams = streams
        self.sent: Mark | None = None
        self.words = streams.host_memory(1 << 12, torch.int32)
        self.snapshot = torch.empty_like(results)
        self.results = streams.host_memory(results.numel(), torch.int32)
        self.launched: GpuLaunched | None = None

    def room(self, size: int) -> torch.Tensor:
        """[size] int32 of the host, to be filled and sent."""
        if self.sent is not None:
            self.sent.wait()
        if size > len(self.words):
            self.words = self.streams.host_memory(2 * size, torch.int32)
        return self.words[:size]


@dataclass
class GpuLaunched(Launched):
    """A step under way on the device. ``flags`` (``ops.stops``) are there once the result was asked for."""

    buffers: _Buffers | None = None
    slots: np.ndarray | None = None
    mark: Mark | None = None
    seconds: dict[str, float] | None = None

    def result(self) -> tuple[list[int], list[float]]:
        if self.buffers is not None:
            assert self.mark is not None and self.slots is not None and self.seconds is not None
            begin = time.perf_counter()
            self.mark.wait()
            self.seconds["wait"] += time.perf_counter() - begin
            words = self.buffers.results.numpy().reshape(3, -1)[:, self.slots]
            self.tokens, self.flags = words[0].tolist(), words[2].tolist()
            self.logprobs = words[1].view(np.float32).tolist()
            self.buffers.launched = None
            self.buffers = None
        return self.tokens, self.logprobs


class GpuRunner:
    """As ``Runner``, for a device whose ``ops.attention`` takes a ``WorkPlan``. ``seconds``: where the host's time goes;
    ``wait`` is the time it had nothing to do."""

    def __init__(
        self,
        decoder: Decoder,
        pool: KVPool,
        tree: KVTree,
        max_running: int,
        max_rows: int,
        *,
        graphs: bool = True,
        streams: Streams | None = None,
        work_type: type[DecodeWork] = DecodeWork,
    ) -> None:
        """``graphs``: replay captured steps rather than launch their operations. ``streams``: None for the device's."""
        c = decoder.config
        self.decoder, self.pool, self.tree = decoder, pool, tree
        self.max_running, self.max_rows = max_running, max_rows
        self.chunk_slots = max_running  # page tables from here on serve the chunks of one step
        device = decoder.embed.device
        self.streams: Streams = CudaStreams(device) if streams is None else streams
        shape, paths = step_shapes(max_running, max_rows, pool.pages, c.max_positions, c.heads // c.kv_heads)
        words = torch.zeros(paths.end, dtype=torch.int32, device=device)
        rows = (shape.splits, max_running, c.heads)
        partial = torch.empty((*rows, c.head_dim), dtype=torch.float32, device=device)
        self.work = work_type(shape, words, partial, torch.empty((*rows, 2), dtype=torch.float32, device=device))
        self.list = WorkList(shape)
        self.paths = PathState(paths, words)
        self.arange = torch.arange(max_rows, device=device)
        self.positions = torch.zeros(max_rows, dtype=torch.int32, device=device)
        self.places = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self.chunk_tokens = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self.chunk_tiles = torch.zeros((max_rows, 4), dtype=torch.int32, device=device)
        self.flags = torch.zeros(max_running, dtype=torch.uint8, device=device)
        self.results = torch.zeros((3, max_running + 1), dtype=torch.int32, device=device)
        """Of each slot's path: its newest token, the bits of its log-probability, its flags."""
        self.stops = torch.full((STOP_TABLES, c.vocab_size), EOS | TEXT, dtype=torch.uint8, device=device)
        self._held: dict[int, tuple[int, torch.Tensor, np.ndarray]] = {}  # rows of ``stops``, by the array's identity
        self._ring = [_Buffers(self.streams, self.results) for _ in range(_IN_FLIGHT)]
        self._turn = 0
        self._copies_listed = True  # an empty buffer is no empty list
        self.seconds = {"plan": 0.0, "launch": 0.0, "wait": 0.0}
        self.graphs: dict[int | Mixed, Callable[[], None]] = {}
        self.buckets = buckets(max_running)
        self.mixed = [  # in ascending order; room for chunks that leave tiles unfilled
            Mixed(max_running, n, n // shape.tile_rows + n // 16) for n in CHUNK_ROWS if max_running + n <= max_rows
        ]
        try:
            self._warm_up(graphs)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{device}: no memory is left for the largest steps ({' '.join(str(error).split())[:150]}): "
                "give less to the keys and values with --kv-memory, or draw fewer paths at once with --max-batch"
            ) from None

    # -- launching ------------------------------------------------------------------------------------------------

    def run(self, step: Step, noise: Sequence[Noise]) -> tuple[list[int], list[float]]:
        """Tokens and their log-probabilities, one for each of ``step.decode``; ``noise`` goes with them."""
        return self.launch(step, noise, None).result()

    def launch(self, step: Step, noise: Sequence[Noise], before: Launched | None) -> Launched:
        """As ``Runner.launch``. Tokens still ``UNKNOWN`` are those of the launch before this one: the device has them."""
        begin = time.perf_counter()
        self.streams.use()
        delta = [self.paths.shape.delta(self._new_paths(step.decode, noise))]
        self.list.sync(step.decode, self.tree)
        rows = len(step.decode)
        shape, chunk_words = self._chunk_words(step)
        delta.append(self.list.take_delta())
        if step.copies or self._copies_listed:
            delta.append(self.paths.shape.copies_delta(step.copies))
            self._copies_listed = True  # until an empty list is on its way: this step may be interrupted
        ready = time.perf_counter()
        buffers = self._ring[self._turn]
        self._turn = (self._turn + 1) % _IN_FLIGHT
        if buffers.launched is not None:
            buffers.launched.result()  # nobody asked so far
        sent = self._send(buffers, np.concatenate(delta), chunk_words)
        self._copies_listed = bool(step.copies)
        if shape is not None:
            self.streams.run(functools.partial(self._place_chunks, shape, sent))
            self._do(shape)
        elif rows:
            self._do(next(size for size in self.buckets if size >= rows))
        self.list.begin_step()
        launched = GpuLaunched([], [])
        if rows:
            slots = np.fromiter((s.slot for s in step.decode), dtype=np.int64, count=rows)
            snapshot = buffers.snapshot  # the next step writes its results anew
            self.streams.run(functools.partial(snapshot.copy_, self.results))
            mark = self.streams.download(snapshot.view(-1), buffers.results)
            launched = buffers.launched = GpuLaunched([], [], None, buffers, slots, mark, self.seconds)
        self.seconds["plan"] += ready - begin
        self.seconds["launch"] += time.perf_counter() - ready
        return launched

    def _new_paths(self, decode: Sequence[SequenceState], noise: Sequence[Noise]) -> list[NewPath]:
        paths = []
        for s, n in zip(decode, noise, strict=True):
            if s.table_ready:
                continue
            token = s.tokens[-1]
            assert token != UNKNOWN, "a path starts with a token that is known"
            paths.append(
                NewPath(
                    s.slot,
                    n.key,
                    n.sample_index,
                    s.drawn,
                    s.max_tokens,
                    self._stop_table(n.ends),
                    token,
                    n.temperature,
                    n.top_k,
                    n.top_p,
                    n.min_p,
                )
            )
        return paths

    def _stop_table(self, ends: np.ndarray | None) -> int:
        """The row of ``stops`` that holds ``ends`` (uint8 [V]). Row 0 flags every token, so that the host looks at each:
        for paths that do not say, and where there are too many different ones."""
        if ends is None:
            return 0
        if id(ends) not in self._held:
            if len(self._held) + 1 == STOP_TABLES:
                return 0
            words = self.streams.host_memory(len(ends), torch.uint8)
            words.numpy()[:] = ends
            row = len(self._held) + 1
            self.streams.upload(self.stops[row], words)
            self._held[id(ends)] = row, words, ends
        return self._held[id(ends)][0]

    def _chunk_words(self, step: Step) -> tuple[Mixed | None, np.ndarray]:
        """How a step's chunks are run, and as words what they need: tiles [*, 4], then each row's token, position and
        place. Brings their page tables up to date."""
        rows, most = len(step.decode), step.rows - len(step.decode)
        if not most:
            return None, np.empty(0, dtype=np.int32)
        cut, first = [], 0
        for number, chunk in enumerate(step.chunks):
            cut.append((first, len(chunk.tokens), chunk.start, self.chunk_slots + number))
            first += len(chunk.tokens)
        tiles = chunk_tiles(cut, self.work.shape.tile_rows)
        shape = Mixed(rows, most, len(tiles))
        for captured in self.mixed if 2 * rows >= self.max_running else ():  # idle rows cost less than many launches
            if captured in self.graphs and most <= captured.chunk and len(tiles) <= captured.tiles:
                shape = captured
                break
        tiles[:, 0] += shape.decode
        table = np.zeros((shape.tiles, 4), dtype=np.int32)  # a tile without rows does nothing
        table[: len(tiles)] = tiles
        columns = np.zeros((3, shape.chunk), dtype=np.int32)
        tokens, positions, places = columns
        places[most:] = IDLE_PLACE
        for (first, size, start, slot), chunk in zip(cut, step.chunks, strict=True):
            pages = self.tree.table(chunk.node)
            self.list.set_pages(slot, 0, pages)
            at, here = np.arange(start, start + size, dtype=np.int32), slice(first, first + size)
            tokens[here], positions[here] = chunk.tokens, at
            places[here] = np.array(pages, dtype=np.int32)[at // PAGE] * PAGE + at % PAGE
        return shape, np.concatenate([table.reshape(-1), columns.reshape(-1)])

    def _send(self, buffers: _Buffers, delta: np.ndarray, more: np.ndarray) -> torch.Tensor:
        """Changes the device's buffer by ``delta`` [n, 2]; returns ``more`` on the device."""
        host = buffers.room(delta.size + more.size)
        if not len(host):
            return torch.empty(0, dtype=torch.int32, device=self.work.buffer.device)
        array = host.numpy()
        array[: delta.size], array[delta.size :] = delta.reshape(-1), more
        sent = torch.empty(len(host), dtype=torch.int32, device=self.work.buffer.device)
        self.streams.upload(sent, host)
        buffers.sent = self.streams.mark()
        if len(delta):
            self.streams.run(functools.partial(self.work.apply, sent[: delta.size].view(-1, 2)))
        return sent[delta.size :]

    # -- on the device --------------------------------------------------------------------------------------------

    def _do(self, shape: int | Mixed) -> None:
        if shape in self.graphs:
            self.graphs[shape]()
        else:
            self.streams.run(self._body(shape))

    def _body(self, shape: int | Mixed) -> Callable[[], None]:
        if isinstance(shape, Mixed):
            return functools.partial(self._mixed_body, shape)
        return functools.partial(self._decode_body, shape)

    def _place_chunks(self, shape: Mixed, sent: torch.Tensor) -> None:
        """Puts what a step's chunks need where the step reads it."""
        every = slice(shape.decode, shape.decode + shape.chunk)
        tokens, positions, places = sent[4 * shape.tiles :].view(3, shape.chunk)
        self.chunk_tiles[: shape.tiles].copy_(sent[: 4 * shape.tiles].view(-1, 4))
        self.chunk_tokens[: shape.chunk].copy_(tokens)
        self.positions[every].copy_(positions)
        self.places[every].copy_(places)

    def _decode_body(self, size: int) -> None:
        """``size`` rows, those of the work list first; the same operations whatever the list holds."""
        self.work.begin_step(self.positions[:size], self.places[:size], IDLE_PLACE)
        slots, index, state = self._rows(size)
        inputs = StepInputs(
            tokens=state.token.clamp(min=0),  # a path without a token is about to be given up
            positions=self.positions[:size],
            slots=self.places[:size],
            plan=WorkPlan(self.work, size),
            copies=self.paths.copies,
        )
        self._draw(self.decoder.forward(inputs, self.pool), slots, index, state)

    def _mixed_body(self, shape: Mixed) -> None:
        rows, every = shape.decode, shape.decode + shape.chunk
        tokens = self.chunk_tokens[: shape.chunk]
        if rows:
            self.work.begin_step(self.positions[:rows], self.places[:rows], IDLE_PLACE)
            slots, index, state = self._rows(rows)
            tokens = torch.cat([state.token.clamp(min=0), tokens])
        inputs = StepInputs(
            tokens=tokens,
            positions=self.positions[:every],
            slots=self.places[:every],
            plan=WorkPlan(self.work, rows, self.chunk_tiles[: shape.tiles]),
            copies=self.paths.copies,
            logit_rows=self.arange[:rows],
        )
        logits = self.decoder.forward(inputs, self.pool)
        if rows:
            self._draw(logits, slots, index, state)

    def _rows(self, size: int) -> tuple[torch.Tensor, torch.Tensor, RowState]:
        """Each row's slot (nobody's for an idle one), its row of the logits (-1 for an idle one), its path's state."""
        arrays, arange = self.work.arrays, self.arange[:size]
        idle = arange >= arrays.counts[COUNT_ROWS]
        slots = arrays.rows[:size, ROW_TABLE].long().masked_fill_(idle, self.paths.shape.nobody)
        return slots, arange.masked_fill(idle, -1), self.paths.gather(slots)

    def _draw(self, logits: torch.Tensor, slots: torch.Tensor, index: torch.Tensor, s: RowState) -> None:
        token, logprob = self.decoder.ops.sample(
            logits,
            index,
            s.key,
            s.drawn,
            s.sample,
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            stream=STREAM_TOKENS,
        )
        flags = self.flags[: len(slots)]
        self.decoder.ops.check_stops(token, s.drawn, s.limit, self.stops, s.table, flags)  # counts ``drawn`` on
        self.paths.keep(slots, token, s.drawn)
        words = torch.stack([token.to(torch.int32), logprob.view(torch.int32), flags.to(torch.int32)])
        self.results.index_copy_(1, slots, words)

    # -- at the start ---------------------------------------------------------------------------------------------

    def _warm_up(self, graphs: bool) -> None:
        """Runs every shape that has a graph once on idle rows, largest first, and then the largest step: kernels are
        compiled, graphs captured, and memory runs out now or never."""
        begin = time.perf_counter()
        self.streams.use()
        self._send(self._ring[0], self.paths.shape.copies_delta(()), np.empty(0, dtype=np.int32))
        self._copies_listed = False
        self.places.fill_(IDLE_PLACE)
        shapes: list[int | Mixed] = [*self.buckets, *self.mixed]
        for each in reversed(shapes):
            self._do(each)
            if graphs:
                self.streams.mark().wait()
                self.graphs[each] = self.streams.capture(self._body(each))
        most = self.max_rows - self.max_running
        if (
            most
        ):  # last, for capturing gives free memory back. One row is a real tile's; a table not in use is all page 0
            shape = Mixed(self.max_running, most, -(-most // self.work.shape.tile_rows))
            self.chunk_tiles[0].copy_(torch.tensor([self.max_running, 1, 0, self.chunk_slots], dtype=torch.int32))
            self.streams.run(self._body(shape))
            self.streams.mark().wait()
            self.chunk_tiles.zero_()
        self.streams.mark().wait()
        how = f"{len(self.graphs)} graphs of up to {self.max_running} rows captured" if graphs else "no graphs"
        _log.info("%s: %s in %.1f s", self.work.buffer.device, how, time.perf_counter() - begin)
