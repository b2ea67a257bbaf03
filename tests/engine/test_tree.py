"""The tree of KV pages under random operations: its own invariants, and that no token is ever lost or overwritten.

Page memory is simulated: a place holds (position, token). A "step" writes what was appended and then makes the copies
that ``append`` returned, in order, as the model step does.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rftfast.engine.tree import PAGE, KVTree, Node, OutOfPages

TOKENS = st.lists(st.integers(0, 1), max_size=50)


def path_of(node: Node) -> list[int]:
    return [t for member in [*node.ancestors()][::-1] for t in member.tokens]


class Memory:
    """Places of the pages, and the writes and copies that the next step will make."""

    def __init__(self, tree: KVTree) -> None:
        self.tree = tree
        self.places: list[list[tuple[int, int] | None]] = [[None] * PAGE for _ in range(tree.n_pages)]
        self.writes: list[tuple[Node, int, list[int]]] = []
        self.copies: list[tuple[int, int, int]] = []

    def append(self, node: Node, tokens: list[int]) -> None:
        start = node.end
        self.copies += self.tree.append(node, tokens)
        self.writes.append((node, start, tokens))

    def step(self) -> None:
        for node, start, tokens in self.writes:
            table = self.tree.table(node)
            for position, token in enumerate(tokens, start):
                self.places[table[position // PAGE]][position % PAGE] = (position, token)
        for source, target, count in self.copies:
            self.places[target][:count] = self.places[source][:count]
        self.writes, self.copies = [], []

    def read(self, node: Node) -> list[tuple[int, int] | None]:
        table = self.tree.table(node)
        return [self.places[table[p // PAGE]][p % PAGE] for p in range(node.end)]

    def check(self) -> None:
        assert not self.writes
        for node in self.tree._by_id.values():
            assert self.read(node) == list(enumerate(path_of(node))), node


@dataclass(eq=False)
class Held:
    """A lock on a node, and the tokens its path must keep."""

    node: Node
    path: list[int]


class TreeMachine(RuleBasedStateMachine):
    @initialize(pages=st.integers(2, 24))
    def make(self, pages: int) -> None:
        self.tree = KVTree(pages)
        self.memory = Memory(self.tree)
        self.held: list[Held] = []

    def pick(self, index: int, writers: bool = False) -> Held:
        among = [h for h in self.held if h.node.writer] if writers else self.held
        return among[index % len(among)]

    def longest_match(self, tokens: list[int]) -> int:
        """By looking at every path of shared nodes."""
        best, stack = 0, [self.tree.root]
        while stack:
            node = stack.pop()
            path = path_of(node)
            same = next((i for i, (a, b) in enumerate(zip(path, tokens, strict=False)) if a != b), None)
            best = max(best, min(len(path), len(tokens)) if same is None else same)
            stack += [c for c in node.children.values() if c.shared]
        return best

    @rule(tokens=TOKENS, shared=st.booleans())
    def begin_matched(self, tokens: list[int], shared: bool) -> None:
        """As a request does: the longest prefix there is, and a node below it for the rest."""
        node, matched = self.tree.match(tokens)
        assert path_of(node)[:matched] == tokens[:matched]
        assert node.start < matched <= node.end or node is self.tree.root
        assert matched == self.longest_match(tokens)
        fork = self.tree.fork_point(node, matched)
        assert path_of(fork) == tokens[:matched]
        self.held.append(Held(self.tree.child(fork, shared=shared), tokens[:matched]))

    @rule(tokens=TOKENS)
    def lock_cached(self, tokens: list[int]) -> None:
        node, matched = self.tree.match(tokens)
        node = self.tree.fork_point(node, matched)
        self.tree.lock(node)
        self.held.append(Held(node, tokens[:matched]))

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0, 99), at=st.integers(0, 99), back=st.booleans())
    def fork_anywhere(self, index: int, at: int, back: bool) -> None:
        """A path that is running, closed or cached above is forked in its middle, at its start or at its end."""
        node, path = self.pick(index).node, self.pick(index).path
        at = len(path) if back else at % (len(path) + 1)
        while at < node.start:
            assert node.parent is not None
            node = node.parent
        fork = self.tree.fork_point(node, at)
        assert path_of(fork) == path[:at] and not fork.writer
        self.held.append(Held(self.tree.child(fork), path[:at]))

    @precondition(lambda self: any(h.node.writer for h in self.held))
    @rule(index=st.integers(0, 99), tokens=TOKENS)
    def append(self, index: int, tokens: list[int]) -> None:
        held = self.pick(index, writers=True)
        node = held.node
        need = self.tree.pages_needed(node, len(tokens))
        room = self.tree.n_pages - self.tree.pinned_pages()
        before = (node.end, list(node.pages), list(node.tokens))
        try:
            self.memory.append(node, tokens)
        except OutOfPages:
            assert need > room, "there was room"
            assert (node.end, node.pages, node.tokens) == before
            return
        assert need <= room
        held.path = held.path + tokens

    @precondition(lambda self: any(h.node.writer for h in self.held))
    @rule(index=st.integers(0, 99))
    def append_one(self, index: int) -> None:
        self.append(index, [index % 2])

    @precondition(lambda self: any(h.node.writer and h.node.tokens for h in self.held))
    @rule(index=st.integers(0, 99))
    def close(self, index: int) -> None:
        held = self.pick(index, writers=True)
        if held.node.tokens:
            self.tree.close(held.node)

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0, 99), keep=st.booleans())
    def release(self, index: int, keep: bool) -> None:
        self.memory.step()  # a scheduler gives up nothing that the coming step still writes
        held = self.pick(index)
        self.held.remove(held)
        self.tree.release(held.node, keep=keep)

    @rule()
    def step(self) -> None:
        self.memory.step()
        self.memory.check()

    @invariant()
    def holds(self) -> None:
        self.tree.check()
        for held in self.held:
            assert path_of(held.node) == held.path
        assert 0 <= self.tree.pinned_pages() <= self.tree.n_pages - self.tree.free_pages

    def teardown(self) -> None:
        if not hasattr(self, "tree"):
            return
        self.memory.step()
        self.memory.check()
        while self.held:
            self.tree.release(self.held.pop().node)
            self.tree.check()
            self.memory.check()
        assert self.tree.pinned_pages() == 0
        whole = self.tree.child(self.tree.root)
        self.memory.append(whole, [7] * (PAGE * self.tree.n_pages))  # all that is cached gives way
        self.tree.check()
        assert self.tree.free_pages == 0 and len(self.tree._by_id) == 2


TestTreeMachine = TreeMachine.TestCase
TestTreeMachine.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def filled(tree: KVTree, memory: Memory, parent: Node, tokens: list[int]) -> Node:
    node = tree.child(parent)
    memory.append(node, tokens)
    memory.step()
    return node


def test_fork_inside_a_page_copies_that_page_on_the_first_write_only():
    tree = KVTree(8)
    memory = Memory(tree)
    first = filled(tree, memory, tree.root, list(range(20)))
    fork = tree.fork_point(first, 18)
    second = tree.child(fork)
    assert tree.free_pages == 6
    copies = tree.append(second, [50])
    assert copies == [(first.pages[0], second.pages[0], 2)] and tree.free_pages == 5
    assert tree.append(second, [51]) == []
    assert tree.table(second)[0] == tree.table(first)[0] and tree.table(second)[1] != tree.table(first)[1]


def test_fork_at_a_page_border_copies_nothing():
    tree = KVTree(8)
    memory = Memory(tree)
    first = filled(tree, memory, tree.root, list(range(40)))
    second = tree.child(tree.fork_point(first, 32))
    assert tree.append(second, [1]) == []
    assert tree.table(second)[:2] == tree.table(first)[:2]


def test_a_running_path_goes_on_below_a_fork_at_its_end():
    for length in (PAGE - 1, PAGE, PAGE + 1):
        tree = KVTree(8)
        memory = Memory(tree)
        running = filled(tree, memory, tree.root, list(range(length)))
        fork = tree.fork_point(running, length)
        other = tree.child(fork)
        memory.append(running, [100])
        memory.append(other, [200])
        memory.step()
        tree.check()
        memory.check()
        assert path_of(running)[-1] == 100 and path_of(other)[-1] == 200
        assert tree.table(running)[length // PAGE] != tree.table(other)[length // PAGE]


def test_match_finds_the_longest_of_paths_that_begin_alike():
    tree = KVTree(16)
    memory = Memory(tree)
    filled(tree, memory, tree.root, [1, 2, 3])
    forked = filled(tree, memory, tree.root, [1, 2, 4, 5])
    tree.child(tree.fork_point(forked, 2))
    assert [tree.match(q)[1] for q in ([1, 2, 3, 9], [1, 2, 4, 5], [1, 2, 4, 6], [1], [2], [])] == [3, 4, 3, 1, 0, 0]


def test_private_nodes_are_not_matched_and_leave_nothing_behind():
    tree = KVTree(4)
    node = tree.child(tree.root, shared=False)
    tree.append(node, [1, 2, 3])
    assert tree.match([1, 2, 3]) == (tree.root, 0)
    tree.release(node)
    assert tree.free_pages == 4


def test_cached_nodes_give_way_oldest_first_and_locked_ones_never():
    tree = KVTree(3)
    memory = Memory(tree)
    old, new = filled(tree, memory, tree.root, [1] * PAGE), filled(tree, memory, tree.root, [2] * PAGE)
    tree.release(old)
    tree.release(new)
    assert tree.free_pages == 1
    node = filled(tree, memory, tree.root, [3] * 2 * PAGE)
    assert tree.match([1] * 4)[1] == 0 and tree.match([2] * 4)[1] == 4
    with pytest.raises(OutOfPages):
        tree.append(node, [3] * 2 * PAGE)
    tree.check()
    assert path_of(node) == [3] * 2 * PAGE
