"""The GPU's work list: deltas bring the device to where a list built anew would be, and every row finds its path in it."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rftfast.engine.scheduler import Scheduler, SequenceState
from rftfast.engine.tree import PAGE, KVTree
from rftfast.engine.work_list import WorkList
from rftfast.ops.work import MAX_SPLITS, SPLIT_PAGES, DecodeWork, WorkShape


class Device:
    """A buffer that hears of the list by deltas alone."""

    def __init__(self, shape):
        self.buffer = np.zeros(shape.words, dtype=np.int32)
        self.shape = shape

    def step(self, work):
        """One step's update; returns the words it took."""
        delta = work.take_delta()
        assert delta.dtype == np.int32 and delta.shape[1] == 2
        assert (np.diff(delta[:, 0]) > 0).all(), "a place twice"
        self.buffer[delta[:, 0]] = delta[:, 1]
        self.begin_step()
        work.begin_step()
        assert (self.buffer == work.buffer).all()
        return len(delta)

    def begin_step(self):
        arrays = self.shape.views(self.buffer)
        arrays.rows[: arrays.counts[0], 1] += 1


def walked(work, row):
    """What the two launches read for a row: (page, keys of it) of its prefix by tiles, and of its suffix by its table."""
    a, shape = work.arrays, work.shape
    table, keys, prefix, _ = a.rows[row].tolist()
    found = {}
    for tile in range(a.counts[1]):
        rows = {h // shape.group for h in a.tile_heads[tile].tolist() if h >= 0}
        if row in rows:
            entry, count, split, _ = a.tiles[tile].tolist()
            assert split not in found, "a split twice"
            pages = a.split_pages[entry, : -(-count // PAGE)].tolist()
            found[split] = [(page, min(PAGE, count - i * PAGE)) for i, page in enumerate(pages)]
    assert sorted(found) == list(range(len(found)))
    assert all(len(found[split]) == shape.split_pages for split in range(len(found) - 1)), "a gap"
    walk = [part for split in sorted(found) for part in found[split]]
    assert len(walk) * PAGE == prefix
    own = a.tables[table, prefix // PAGE : -(-keys // PAGE)].tolist()
    return walk + [(page, min(PAGE, keys - prefix - i * PAGE)) for i, page in enumerate(own)]


def path(pages, keys):
    return [(page, min(PAGE, keys - i * PAGE)) for i, page in enumerate(pages)]


# -- by hand ----------------------------------------------------------------------------------------------------------

SHAPE = WorkShape(max_rows=8, tables=10, table_width=8, group=3, tile_m=16, split_pages=4)


def test_rows_of_one_prompt_share_tiles_of_five():
    work = WorkList(SHAPE)
    assert SHAPE.tile_rows == 5
    for key in range(6):
        assert work.join(key, key, [7, 8, 10 + key], 35, 2) == key
        work.check()
    a = work.arrays
    assert a.counts[:2].tolist() == [6, 2]
    assert a.tiles[:2].tolist() == [[0, 32, 0, 0], [0, 32, 0, 0]]
    assert a.split_pages[0, :2].tolist() == [7, 8]
    assert a.tile_heads[0].tolist() == [*range(15), -1]
    assert a.tile_heads[1].tolist() == [15, 16, 17, *[-1] * 13]


def test_a_chain_of_nodes_is_tiles_by_split():
    """A header of one split and a bit, two questions behind it, one path forked far down."""
    work = WorkList(SHAPE)
    work.join(0, 0, [0, 1, 2, 3, 4, 5], 90, 5)
    work.join(1, 1, [0, 1, 2, 3, 4, 6], 90, 5)
    work.join(2, 2, [0, 1, 2, 3, 7, 8, 9], 99, 6)
    work.check()
    assert sorted(tuple(t) for t in work.arrays.tiles[:3].tolist()) == [(0, 64, 0, 0), (1, 16, 1, 0), (2, 32, 1, 0)]
    work.begin_step()
    assert walked(work, 2) == path([0, 1, 2, 3, 7, 8, 9], 99)


def test_who_leaves_is_replaced_by_the_last():
    work, device = WorkList(SHAPE), Device(SHAPE)
    for key in range(7):
        work.join(100 + key, key, [7, 10 + key], 20, 1)
    device.step(work)
    work.leave(101)
    assert [work.row_of(100 + k) for k in (0, 2, 3, 4, 5, 6)] == [0, 2, 3, 4, 5, 1]
    work.check()
    assert work.arrays.counts[:2].tolist() == [6, 2]
    assert work.arrays.rows[1].tolist() == [6, 20, 16, 0]
    assert device.step(work) < 20, "an update is as small as the change"
    for key in (100, 102, 103, 104, 105):
        work.leave(key)
        work.check()
    assert work.arrays.counts[:2].tolist() == [1, 1]
    work.leave(106)
    assert work.arrays.counts[:2].tolist() == [0, 0] and len(work) == 0
    device.step(work)
    assert device.step(work) == 0, "nothing changed"


def test_several_rows_of_one_path():
    """Tokens that a preempted path has drawn already are computed as rows of their own, side by side."""
    work = WorkList(SHAPE)
    for i in range(4):
        work.join(50 + i, 3, [7, 8, 9], 33 + i, 2)
    work.check()
    work.begin_step()
    assert [walked(work, i) for i in range(4)] == [path([7, 8, 9], 33 + i) for i in range(4)]


def test_a_page_id_may_come_back_elsewhere():
    work = WorkList(SHAPE)
    work.join(0, 0, [5, 6], 20, 1)
    work.leave(0)
    work.join(1, 1, [6, 3, 4, 2, 5, 1], 90, 5)  # page 5 in another split, of another path
    work.check()
    work.begin_step()
    assert walked(work, 0) == path([6, 3, 4, 2, 5, 1], 90)


def test_a_full_list_refuses():
    work = WorkList(SHAPE)
    for key in range(8):
        work.join(key, key, [key], 3, 0)
    with pytest.raises(AssertionError):
        work.join(8, 8, [8], 3, 0)
    with pytest.raises(AssertionError, match="at least one key behind its prefix"):
        WorkList(SHAPE).join(0, 0, [1, 2], 16, 1)


# -- the format -------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4096), st.integers(1, 4000), st.integers(1, 16))
def test_arrays_lie_apart_and_on_lines(rows, width, group):
    shape = WorkShape.plan(rows, rows + 8, width, group)
    assert shape.splits <= MAX_SPLITS and shape.split_pages >= SPLIT_PAGES and shape.splits * shape.split_pages >= width
    assert shape.tile_rows >= 1 and shape.tile_rows * group <= shape.tile_m
    offsets = shape.offsets
    assert all(at % 32 == 0 for at in offsets.values())  # 128 bytes: the kernels' reads are wide
    ends = [at + int(np.prod(shape.sizes[name])) for name, at in offsets.items() if name != "end"]
    assert all(end <= following for end, following in zip(ends, list(offsets.values())[1:], strict=True))
    heads, head_dim = group * 2, 64
    assert DecodeWork.bytes_needed(shape, heads, head_dim) == 4 * (
        offsets["end"] + shape.splits * rows * heads * head_dim + shape.splits * rows * heads * 2
    )


def test_views_are_views():
    buffer = np.zeros(SHAPE.words, dtype=np.int32)
    SHAPE.views(buffer).tables[9, 7] = 5
    assert buffer[SHAPE.offsets["tables"] + 79] == 5


# -- at random --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), group=st.sampled_from([1, 3, 4, 8]), split_pages=st.sampled_from([4, 8]))
def test_deltas_lead_where_a_new_list_begins(seed, group, split_pages):
    """Prompts that begin alike, rows that join, grow by pages and leave; after each step the device has what the list
    has, and every row walks its own path. A list built anew of what is left has as many tiles of the same kinds."""
    rng = random.Random(seed)
    shape = WorkShape(12, 12, 14, group, tile_m=16, split_pages=split_pages)
    work, device = WorkList(shape), Device(shape)
    free_pages = list(range(400))
    rng.shuffle(free_pages)
    header = [free_pages.pop() for _ in range(rng.randint(0, 6))]
    prompts = [header + [free_pages.pop() for _ in range(rng.randint(0, 5))] for _ in range(3)]
    prompts += [prompts[0][: rng.randint(0, len(prompts[0]))]]
    tables, paths = list(range(12)), {}  # key -> (table, pages, keys, prefix pages)
    for key in range(60):
        for gone in rng.sample(sorted(paths), min(len(paths), rng.choice([0, 0, 1, 2, 5]))):
            work.leave(gone)
            table, pages, _, prefix = paths.pop(gone)
            tables.append(table)
            free_pages += pages[prefix:]
        if tables and rng.random() < 0.8:
            prompt = rng.choice(prompts)
            keys = len(prompt) * PAGE + rng.randint(1, 20)
            pages = prompt + [free_pages.pop() for _ in range(-(-keys // PAGE) - len(prompt))]
            paths[key] = tables.pop(rng.randrange(len(tables))), pages, keys, len(prompt)
            work.join(key, *paths[key])
        for other, (table, pages, _, prefix) in paths.items():
            keys = int(work.arrays.rows[work.row_of(other), 1]) + 1
            if keys > len(pages) * PAGE:
                if len(pages) == shape.table_width:
                    work.arrays.rows[work.row_of(other), 1] -= 1  # stays where it is, on both sides
                    device.shape.views(device.buffer).rows[work.row_of(other), 1] -= 1
                    keys -= 1
                else:
                    pages = [*pages, free_pages.pop()]
                    work.set_pages(table, len(pages) - 1, pages[-1:])
            paths[other] = table, pages, keys, prefix
        work.check()
        device.step(work)
        assert len(work) == len(paths)
        for other, (_, pages, keys, _) in paths.items():
            assert walked(work, work.row_of(other)) == path(pages, keys)
    again = WorkList(shape)
    for other in rng.sample(sorted(paths), len(paths)):
        again.join(other, *paths[other])
    again.check()

    def kinds(made):
        a = made.arrays
        tiles = a.tiles[: a.counts[1]].tolist()
        return sorted((split, tuple(a.split_pages[entry, : keys // PAGE].tolist())) for entry, keys, split, _ in tiles)

    assert kinds(again) == kinds(work)


# -- from the scheduler -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pages", [14, 40, 120])
def test_sync_follows_the_scheduler(pages, seed):
    """Prompts that share, fork inside pages and end on page borders; with few pages, and paths that all at once grow
    longer than those before, sequences are preempted and come back."""
    rng = random.Random(seed)
    tree = KVTree(pages)
    scheduler = Scheduler(tree, max_running=7, max_rows=30)
    shape = WorkShape(7, 9, 12, 3, tile_m=16, split_pages=4)
    work, device = WorkList(shape), Device(shape)
    header = [rng.randint(0, 2) for _ in range(rng.choice([0, 16, 33, 70]))]
    for question in range(10):
        prompt = [*header, question, *(rng.randint(0, 2) for _ in range(rng.choice([0, 15, 16, 20])))]
        for _ in range(10):
            scheduler.add(SequenceState(None, list(prompt), len(prompt), 40))
    lengths = {id(s): rng.randint(1, 3) if i < 70 else 40 for i, s in enumerate(scheduler.waiting)}
    steps = 0
    while scheduler.busy:
        step = scheduler.schedule()
        tree.check()
        work.sync(step.decode, tree)
        work.check()
        device.step(work)
        assert len(work) == len(step.decode)
        for s in step.decode:
            row = work.row_of(s.slot)
            table, keys, prefix, _ = work.arrays.rows[row].tolist()
            assert (table, keys) == (s.slot, len(s.tokens))
            assert prefix == (s.prompt_length - 1) // PAGE * PAGE, "the division is the path's own"
            assert walked(work, row) == path(tree.table(s.leaf)[: -(-keys // PAGE)], keys)
        for s in step.decode:
            s.tokens.append(rng.randint(0, 2))
            if s.drawn >= lengths[id(s)]:
                scheduler.finish(s)
        steps += 1
        assert steps < 3000
    assert pages > 14 or scheduler.preemptions, "the test is meant to preempt"
    work.sync([], tree)
    assert len(work) == 0
