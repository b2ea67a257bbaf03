"""The tree of token runs and the pages that hold their keys and values.

A node is a run of tokens at absolute positions [start, end) with the pages that cover them. Position p always lies in
place p % 16 of the path's page number p // 16, so a page means the same wherever it hangs. A node that begins inside a
page has a page of its own for that place; the tokens before it are copied from its parent's page when its first token
is written. A path's
page table is therefore: for each page number, the page of the deepest node that has one.

Matching is by token. Splitting a node inside a page leaves that page with both halves; only the lower half may still
write to it, behind the tokens of the upper one, so neither disturbs the other.

Every token in the tree has its keys and values written, or is scheduled to have them written in the very next model
step before anything reads them. Plain Python over integers: no torch, no model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

PAGE = 16
UNKNOWN = -1  # a token that is being drawn: its page is taken, its value comes a step later; it matches nothing


class OutOfPages(Exception):
    """No free page, and nothing cached that could be dropped. The scheduler preempts someone and tries again."""


class Node:
    """A run of tokens. ``writer``: a sequence still appends to it. ``shared``: others may match it."""

    __slots__ = ("children", "id", "index", "locks", "pages", "parent", "shared", "start", "tokens", "writer")

    def __init__(self, ident: int, parent: Node | None, start: int, shared: bool, writer: bool) -> None:
        self.id = ident
        self.parent = parent
        self.start = start
        self.tokens: list[int] = []
        self.pages: list[int] = []  # page numbers start // 16 and on
        self.children: dict[int, Node] = {}  # by id
        self.index: dict[int, dict[int, Node]] = {}  # first token -> shared children that begin with it, by id
        self.locks = 0
        self.shared = shared
        self.writer = writer

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    def ancestors(self) -> Iterator[Node]:
        """From this node up to, not including, the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def __repr__(self) -> str:
        return f"Node({self.id}, [{self.start}, {self.end}), pages={self.pages}, locks={self.locks})"


class KVTree:
    """Allocates pages to paths. ``version`` changes when the shape above running leaves does."""

    def __init__(self, pages: int) -> None:
        self.n_pages = pages
        self._free = list(range(pages - 1, -1, -1))  # a stack: the page freed last is warm in the cache
        self._refs = [0] * pages
        self._ids = itertools.count()
        self.root = Node(next(self._ids), None, 0, shared=True, writer=False)
        self._idle: dict[int, Node] = {}  # unlocked childless nodes kept for later requests, oldest first
        self._by_id: dict[int, Node] = {self.root.id: self.root}
        self.version = 0

    # -- queries ------------------------------------------------------------------------------------------------

    @property
    def free_pages(self) -> int:
        """Pages that are free now."""
        return len(self._free)

    def pinned_pages(self, node: Node | None = None, at: int = 0) -> int:
        """Pages on the paths of locked nodes: what cannot be dropped. With ``node``, as if the path that ends at
        position ``at`` inside it were locked too."""
        seen: set[int] = set()
        pages: set[int] = set()
        if node is not None and node.parent is not None:
            pages.update(node.pages[: -(-at // PAGE) - node.start // PAGE])
            for member in node.parent.ancestors():
                seen.add(member.id)
                pages.update(member.pages)
        for node in self._by_id.values():
            if node.locks:
                for member in node.ancestors():
                    if member.id in seen:
                        break
                    seen.add(member.id)
                    pages.update(member.pages)
        return len(pages)

    def match(self, tokens: Sequence[int]) -> tuple[Node, int]:
        """The deepest shared node along ``tokens`` and how many tokens match (possibly ending inside the node)."""
        best, longest = self.root, 0
        stack = [(self.root, 0)]
        while stack:  # siblings may begin alike (paths that were drawn apart), so every one that matches is followed
            node, matched = stack.pop()
            if matched == len(tokens):
                break
            for child in node.index.get(tokens[matched], {}).values():
                length = _common(child.tokens, tokens, matched)
                if matched + length > longest:
                    best, longest = child, matched + length
                if length == len(child.tokens):
                    stack.append((child, matched + length))
        return best, longest

    def own_pages(self, node: Node) -> int:
        """Pages that come free with ``node``: all of its own but one that a fork inside it left to its parent too."""
        return len(node.pages) - bool(node.pages and self._refs[node.pages[0]] > 1)

    def table(self, node: Node) -> list[int]:
        """The page table of the path that ends with ``node``."""
        chain = list(node.ancestors())
        table: list[int] = []
        for member in reversed(chain):
            if member.pages:
                del table[member.start // PAGE :]
                table.extend(member.pages)
        return table

    # -- changes ------------------------------------------------------------------------------------------------

    def lock(self, node: Node) -> None:
        node.locks += 1
        self._idle.pop(node.id, None)

    def fork_point(self, node: Node, at: int) -> Node:
        """The node that ends at position ``at`` of the path through ``node``; splits ``node`` if need be.

        ``node.start <= at <= node.end``. A node that a sequence is still writing is always split, even at its end:
        the sequence goes on in the lower half.
        """
        assert node.start <= at <= node.end
        if at == node.start and node.parent is not None:
            return node.parent
        if at == node.end and not node.writer:
            return node
        return self._split(node, at)

    def _split(self, node: Node, at: int) -> Node:
        parent = node.parent
        assert parent is not None and node.start < at <= node.end
        upper = self._new(parent, node.start, shared=node.shared, writer=False)
        cut = at - node.start
        self._unindex(node)
        del parent.children[node.id]
        upper.tokens, node.tokens = node.tokens[:cut], node.tokens[cut:]
        first = node.start // PAGE
        upper_pages = -(-at // PAGE) - first
        upper.pages = node.pages[:upper_pages]
        lower_first = at // PAGE
        node.pages = node.pages[lower_first - first :]
        if at % PAGE and node.pages:
            self._refs[node.pages[0]] += 1  # the page of the cut belongs to both
        node.start, node.parent = at, upper
        self._attach(upper)
        upper.children[node.id] = node
        self._index(node)
        self.version += 1
        return upper

    def child(self, parent: Node, *, shared: bool = True) -> Node:
        """A new empty node under ``parent`` for a sequence to write; comes locked."""
        assert not parent.writer
        node = self._new(parent, parent.end, shared=shared, writer=True)
        parent.children[node.id] = node
        self._idle.pop(parent.id, None)
        node.locks = 1
        return node

    def pages_needed(self, node: Node, n: int) -> int:
        """New pages that appending ``n`` tokens to ``node`` takes."""
        return -(-(node.end + n) // PAGE) - node.start // PAGE - len(node.pages) if n else 0

    def append(self, node: Node, tokens: Sequence[int]) -> list[tuple[int, int, int]]:
        """Appends to a node being written. Returns the page copies (source page, target page, places) that the next
        model step makes, in this order, layer by layer, after it has written the layer's new keys and values.

        Raises OutOfPages, with nothing changed.
        """
        assert node.writer and not node.children
        need = self.pages_needed(node, len(tokens))
        if need > len(self._free):
            self._evict(need - len(self._free))
        copies: list[tuple[int, int, int]] = []
        for _ in range(need):
            page = self._free.pop()
            self._refs[page] = 1
            if not node.pages and node.start % PAGE:
                parent = node.parent
                assert parent is not None and parent.pages
                copies.append((parent.pages[-1], page, node.start % PAGE))
            node.pages.append(page)
        fresh = not node.tokens
        node.tokens.extend(tokens)
        if fresh and tokens:
            self._index(node)
        return copies

    def extend(self, node: Node, tokens: Sequence[int]) -> bool:
        """``append`` of the last of ``tokens``, a whole path, if that is the one that ``node`` lacks and it takes no page;
        else nothing happens and the answer is False."""
        own = node.tokens
        end = node.start + len(own)
        if not own or end % PAGE == 0 or len(tokens) != end + 1:
            return False
        own.append(tokens[-1])
        return True

    def learn(self, node: Node, position: int, token: int) -> None:
        """Replaces the placeholder (``UNKNOWN``) at ``position`` of a node being written by its token."""
        at = position - node.start
        assert node.writer and node.tokens[at] == UNKNOWN
        if at:
            node.tokens[at] = token
            return
        self._unindex(node)
        node.tokens[0] = token
        self._index(node)

    def close(self, node: Node) -> None:
        """No more tokens are appended; the lock stays."""
        node.writer = False

    def release(self, node: Node, *, keep: bool = True) -> None:
        """Gives back one lock. Unlocked nodes without children are kept for later requests if they may be shared and
        ``keep``; else they go at once, and so does what hung on them alone."""
        assert node.locks > 0
        node.locks -= 1
        if node.locks:
            return
        node.writer = False
        if node.children:
            return
        if keep and node.shared and node.tokens:
            self._idle[node.id] = node
        else:
            self._drop(node)

    def _drop(self, node: Node) -> None:
        while node.parent is not None and not node.children and not node.locks:
            parent = node.parent
            for page in node.pages:
                self._refs[page] -= 1
                if not self._refs[page]:
                    self._free.append(page)
            self._unindex(node)
            del parent.children[node.id]
            del self._by_id[node.id]
            self._idle.pop(node.id, None)
            if parent.parent is None or parent.children or parent.locks:
                return
            if parent.shared:
                self._idle[parent.id] = parent
                return
            node = parent

    def forget(self) -> None:
        """Drops all that is kept for later requests."""
        while self._idle:
            self._drop(self._idle[next(iter(self._idle))])

    def _evict(self, pages: int) -> None:
        goal = len(self._free) + pages
        while len(self._free) < goal and self._idle:
            self._drop(self._idle[next(iter(self._idle))])
        if len(self._free) < goal:
            raise OutOfPages

    # -- bookkeeping --------------------------------------------------------------------------------------------

    def _new(self, parent: Node, start: int, *, shared: bool, writer: bool) -> Node:
        node = Node(next(self._ids), parent, start, shared, writer)
        self._by_id[node.id] = node
        return node

    def _attach(self, node: Node) -> None:
        assert node.parent is not None
        node.parent.children[node.id] = node
        self._index(node)

    def _index(self, node: Node) -> None:
        if node.shared and node.tokens and node.parent is not None:
            node.parent.index.setdefault(node.tokens[0], {})[node.id] = node

    def _unindex(self, node: Node) -> None:
        if node.shared and node.tokens and node.parent is not None:
            bucket = node.parent.index[node.tokens[0]]
            del bucket[node.id]
            if not bucket:
                del node.parent.index[node.tokens[0]]

    def check(self) -> None:
        """Verifies every invariant of this file; for tests, after each step."""
        refs = [0] * self.n_pages
        seen = 0
        stack = [self.root]
        while stack:
            node = stack.pop()
            seen += 1
            assert self._by_id[node.id] is node
            for page in node.pages:
                refs[page] += 1
            if node.tokens:
                assert len(node.pages) == -(-node.end // PAGE) - node.start // PAGE, node
            else:
                assert len(node.pages) <= 1, node
            assert not (node.writer and node.children), node
            assert not (node.writer and not node.locks), node
            idle = node.parent is not None and not node.locks and not node.children
            assert (node.id in self._idle) == idle, node
            for child in node.children.values():
                assert child.parent is node and child.start == node.end, (node, child)
                assert node is self.root or node.tokens, "only the root and leaves being written may be empty"
                if child.shared and child.tokens:
                    assert node.index[child.tokens[0]][child.id] is child
                stack.append(child)
            assert sum(map(len, node.index.values())) == sum(
                bool(c.shared and c.tokens) for c in node.children.values()
            )
            table = self.table(node)
            assert len(set(table)) == len(table), "a page twice in one path"
        assert seen == len(self._by_id)
        assert refs == self._refs
        assert sorted(self._free) == [p for p in range(self.n_pages) if not refs[p]]


def _common(run: list[int], tokens: Sequence[int], offset: int) -> int:
    """Length of the common prefix of ``run`` and ``tokens[offset:]``."""
    n = min(len(run), len(tokens) - offset)
    if run[:n] == list(tokens[offset : offset + n]):
        return n
    for i in range(n):
        if run[i] != tokens[offset + i]:
            return i
    return n
