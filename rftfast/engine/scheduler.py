"""Who computes what in the next step. Knows tokens and pages, no model and no text.

Continuous batching: every running sequence gives one row a step; what is left of the step's rows goes to prompts, a
chunk at a time, first come first served. A prompt is written into the tree once and all its samples hang below it.
Admission looks ahead: a sequence starts only if, by the lengths seen so far, the pages suffice until those running have
finished. When that guess was wrong, the sequence admitted last gives up its pages and later recomputes them from the
tokens it has already drawn, which stay as they are.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from rftfast.engine.tree import PAGE, UNKNOWN, KVTree, Node, OutOfPages

_LENGTHS_SEEN = 512  # finished lengths remembered
_LENGTHS_NEEDED = 64  # before this many are known, every path counts as long as it may get
_QUANTILE = 0.9
_ROWS_A_STEP = 128  # a forecast over so many running sequences takes time; over n times as many it serves n steps


@dataclass(eq=False)
class SequenceState:
    """One path being drawn. ``payload`` is the caller's; ``tokens`` are the prompt and what has been drawn, ``UNKNOWN``
    for tokens of a step that is still being computed."""

    payload: object
    tokens: list[int]
    prompt_length: int
    max_tokens: int
    share: bool = True
    leaf: Node | None = None
    prompt_node: Node | None = None
    """Where the prompt ends in the tree, locked, while it is being computed."""
    slot: int = -1
    """A number below max_running, its own while it runs (the runner's row of page tables)."""
    table_ready: bool = False
    """The runner has written the page table of this slot."""
    order: tuple[int, ...] = ()
    order_version: int = -1
    preemptions: int = 0
    row: int = -1
    """Its row in the last step it was drawn in: where its newest token is found while that is unknown here."""
    ended: bool = False

    @property
    def drawn(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def full(self) -> bool:
        """No further token may be drawn; the last one may be unknown yet."""
        return len(self.tokens) - self.prompt_length >= self.max_tokens


@dataclass
class Chunk:
    """Tokens [start, start + len(tokens)) of a path, to be written into ``node``."""

    node: Node
    start: int
    tokens: list[int]


@dataclass
class Step:
    """One model step: a row for each of ``decode``, then the rows of ``chunks``."""

    decode: list[SequenceState] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    copies: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return len(self.decode) + sum(len(c.tokens) for c in self.chunks)


class Scheduler:
    """``max_running`` sequences at once; ``max_rows`` rows (running ones and prompt tokens) a step."""

    def __init__(self, tree: KVTree, max_running: int, max_rows: int, *, ordered: bool = True) -> None:
        """``ordered``: rows in depth-first order of the tree, so that those which share pages are neighbours."""
        assert 0 < max_running <= max_rows
        self.tree = tree
        self.ordered = ordered
        self.max_running = max_running
        self.max_rows = max_rows
        self.waiting: deque[SequenceState] = deque()
        self.running: list[SequenceState] = []
        self._slots = list(range(max_running - 1, -1, -1))
        self._lengths: deque[int] = deque(maxlen=_LENGTHS_SEEN)
        self._longest = 0  # tokens that the longest path so far may come to
        self._usual: int | None = None  # the quantile of _lengths, until another one comes
        self._steps = 0
        self._room, self._room_until = 0, 0  # pages that the last forecast left over, and the step it serves up to
        self._full_until = 0  # up to this step nobody else fits, unless a sequence ends
        self.preemptions = 0
        self.prefill_tokens = 0
        self.prompt_tokens = 0
        """Prompt tokens of all sequences started; without sharing, each would have been computed."""

    def add(self, sequence: SequenceState) -> None:
        self._longest = max(self._longest, sequence.prompt_length + sequence.max_tokens)
        self.waiting.append(sequence)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self, ahead: bool = False) -> Step:
        """The next step. Every token in it counts as computed from here on.

        ``ahead``: the step before is still being computed, so newest tokens are ``UNKNOWN``, and there may be nothing to do
        before they are there.
        """
        step = Step()
        self._steps += 1
        self._extend_running(step)
        self._admit(step)
        step.decode = self._ordered() if self.ordered else [s for s in self.running if not s.full]
        assert step.rows > 0 or ahead or not self.busy, "nothing to do with work waiting"
        return step

    def learn(self, sequence: SequenceState, at: int, token: int) -> None:
        """The token at index ``at`` of ``sequence.tokens`` has come to be known."""
        sequence.tokens[at] = token
        leaf = sequence.leaf
        if leaf is not None and 0 <= at - leaf.start < len(leaf.tokens):
            self.tree.learn(leaf, at, token)

    def finish(self, sequence: SequenceState) -> None:
        """A sequence has drawn its last token; its pages are free."""
        self._lengths.append(sequence.drawn)
        self._usual = None
        self._full_until = 0
        sequence.ended = True
        if sequence.leaf is None:  # preempted while that token was being computed
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self._leave(sequence)

    def abort(self) -> None:
        """Forgets all that waits or runs and gives its pages back."""
        for sequence in self.waiting:
            if sequence.prompt_node is not None:
                self._drop_prompt(sequence)
        self.waiting.clear()
        for sequence in self.running:
            self._leave(sequence)
        self.running.clear()

    def _leave(self, sequence: SequenceState) -> None:
        assert sequence.leaf is not None
        self.tree.release(sequence.leaf, keep=False)
        sequence.leaf = None
        self._slots.append(sequence.slot)
        sequence.slot, sequence.table_ready = -1, False

    # -- running sequences ----------------------------------------------------------------------------------------

    def _extend_running(self, step: Step) -> None:
        """Makes room for each running sequence's newest token, oldest sequence first; the youngest gives way."""
        i, extend = 0, self.tree.extend
        while i < len(self.running):
            sequence = self.running[i]
            leaf, tokens = sequence.leaf, sequence.tokens
            assert leaf is not None
            # In this order: of 16 tokens 15 take no page, and thousands of paths may be running.
            if sequence.full or extend(leaf, tokens):
                i += 1
                continue
            try:
                step.copies += self.tree.append(leaf, tokens[leaf.end :])
            except OutOfPages:
                self._preempt(self.running[-1])
                continue
            i += 1

    def _preempt(self, victim: SequenceState) -> None:
        if len(self.running) == 1:
            if self._abandon_prompt():
                return
            self._keep_apart(victim)
        self.running.remove(victim)
        self._leave(victim)
        victim.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(victim)

    def _abandon_prompt(self) -> bool:
        """Drops a half-computed prompt so that a running sequence can go on."""
        for sequence in self.waiting:
            if sequence.prompt_node is not None:
                self._drop_prompt(sequence)
                return True
        return False

    def _keep_apart(self, sequence: SequenceState) -> None:
        """Alone, a path may still not fit: each fork inside a page takes one more. Without sharing it takes the fewest."""
        assert sequence.share, "one sequence does not fit the pool: Sampler checks that before it starts"
        sequence.share = False

    def _drop_prompt(self, sequence: SequenceState) -> None:
        assert sequence.prompt_node is not None
        self.tree.release(sequence.prompt_node, keep=False)
        sequence.prompt_node = None

    def _ordered(self) -> list[SequenceState]:
        """Running sequences in depth-first order of the tree."""
        version = self.tree.version
        for sequence in self.running:
            if sequence.order_version != version:
                assert sequence.leaf is not None
                sequence.order = tuple(node.id for node in sequence.leaf.ancestors())[::-1]
                sequence.order_version = version
        return sorted((s for s in self.running if not s.full), key=lambda s: s.order)

    # -- admission ------------------------------------------------------------------------------------------------

    def _admit(self, step: Step) -> None:
        budget = self.max_rows - len(self.running)
        while self.waiting and budget > 0 and len(self.running) < self.max_running:
            sequence = self.waiting[0]
            if sequence.tokens[-1] == UNKNOWN:
                return  # preempted just now; its newest token is there after this step
            if sequence.prompt_node is None:
                if self.running and not self._fits(sequence):
                    return
                self._open(sequence)
            assert sequence.prompt_node is not None
            try:
                budget -= self._prefill(sequence, budget, step)
                if sequence.prompt_node.end < len(sequence.tokens) - 1 or budget <= 0:
                    return
                self._start(sequence, step)
            except OutOfPages:
                if self.running or step.chunks:
                    return
                if not self._drop_other_prompts(sequence):
                    self._drop_prompt(sequence)
                    self._keep_apart(sequence)
                continue
            self.waiting.popleft()
            budget -= 1

    def _drop_other_prompts(self, sequence: SequenceState) -> bool:
        """With nothing running, only other prompts that were begun can be in the way."""
        begun = [other for other in self.waiting if other is not sequence and other.prompt_node is not None]
        for other in begun:
            self._drop_prompt(other)
        return bool(begun)

    def _open(self, sequence: SequenceState) -> None:
        """Finds or makes the node under which the sequence's uncomputed tokens go, and locks it."""
        tree, context = self.tree, sequence.tokens[: sequence.prompt_length - 1]
        if not sequence.share:
            sequence.prompt_node = tree.child(tree.root, shared=False)
            return
        node, matched = tree.match(context)
        if matched:
            node = tree.fork_point(node, matched)
        if matched == len(context):
            tree.lock(node)
            sequence.prompt_node = node
        else:
            sequence.prompt_node = tree.child(node)

    def _prefill(self, sequence: SequenceState, budget: int, step: Step) -> int:
        """Schedules what is missing of the prompt (and, after a preemption, of the path); returns the rows taken."""
        tree, node = self.tree, sequence.prompt_node
        assert node is not None
        context = len(sequence.tokens) - 1
        prompt = sequence.prompt_length - 1
        taken = 0
        if node.writer and node.end < prompt:
            taken += self._chunk(node, sequence, min(budget, prompt - node.end), step)
            if node.end == prompt and sequence.share:
                tree.close(node)  # complete: its samples hang below it
        if node.end >= prompt and context > prompt and taken < budget:
            if not node.writer:  # recompute after preemption: the path's own tokens go to a leaf of its own
                leaf = tree.child(node)
                tree.release(node)
                sequence.prompt_node = node = leaf
            taken += self._chunk(node, sequence, min(budget - taken, context - node.end), step)
        return taken

    def _chunk(self, node: Node, sequence: SequenceState, n: int, step: Step) -> int:
        if n <= 0:
            return 0
        start = node.end
        tokens = sequence.tokens[start : start + n]
        step.copies += self.tree.append(node, tokens)
        step.chunks.append(Chunk(node, start, tokens))
        self.prefill_tokens += n
        return n

    def _start(self, sequence: SequenceState, step: Step) -> None:
        """Gives the sequence its leaf and its first row."""
        tree, node = self.tree, sequence.prompt_node
        assert node is not None
        if node.writer:
            leaf = node
        else:
            leaf = tree.child(node)
        try:
            step.copies += tree.append(leaf, sequence.tokens[leaf.end :])
        except OutOfPages:
            if leaf is not node:
                tree.release(leaf, keep=False)
            raise
        if leaf is not node:
            tree.release(node)
        sequence.leaf, sequence.prompt_node = leaf, None
        sequence.slot = self._slots.pop()
        sequence.order_version = -1
        self.prompt_tokens += sequence.prompt_length - 1
        self.running.append(sequence)

    # -- looking ahead --------------------------------------------------------------------------------------------

    def expected_length(self, sequence: SequenceState) -> int:
        """Tokens the path is expected to draw in all: a high quantile of those seen, at most what it may."""
        if len(self._lengths) < _LENGTHS_NEEDED:
            return sequence.max_tokens
        if self._usual is None:
            self._usual = int(np.quantile(np.fromiter(self._lengths, dtype=np.int64), _QUANTILE)) + 1
        return min(sequence.max_tokens, max(self._usual, sequence.drawn + PAGE))

    def _fits(self, sequence: SequenceState) -> bool:
        """Whether the pages suffice with ``sequence`` admitted, played forward until all running have finished.

        Time is counted in steps: a running path takes a page every 16 and gives all its own back when it ends. The
        newcomer may start only after its prompt's steps, and is counted as if it took its pages at once.
        """
        if (len(self.running) + 2) * (self._longest // PAGE + 2) <= self.tree.n_pages:
            return True  # even if nothing were shared and every path took all it may
        if self._steps <= self._full_until:
            return False
        context = len(sequence.tokens) - 1
        node, matched = self.tree.match(sequence.tokens[:context]) if sequence.share else (self.tree.root, 0)
        most = -(-(sequence.prompt_length + sequence.max_tokens) // PAGE) - matched // PAGE + 1
        if self._steps > self._room_until or most > self._room:
            serves = self._steps + len(self.running) // _ROWS_A_STEP
            room = self.tree.n_pages - self._forecast(sequence, node, matched)
            if room < 0:
                self._full_until = serves - 1
                return False
            self._room, self._room_until = room, serves - 1
        else:
            self._room -= most
        return True

    def _forecast(self, sequence: SequenceState, node: Node, matched: int) -> int:
        """The most pages taken at any time if ``sequence`` is admitted, whose tokens match the tree up to ``matched``, which
        lies in ``node``."""
        context = len(sequence.tokens) - 1
        candidates = [*self.running, sequence]
        length = np.array([len(s.tokens) for s in candidates])
        remaining = np.array([max(1, self.expected_length(s) - s.drawn) for s in candidates])
        last = remaining.copy()  # the step in which each draws its last token, which is never stored
        last[-1] += -(-(context - matched) // (self.max_rows - len(self.running)))
        own = np.array([self.tree.own_pages(s.leaf) if s.leaf is not None else 0 for s in candidates])
        if node.writer:  # a running path is forked: what lies above the fork will outlive it
            kept = -(-matched // PAGE) - node.start // PAGE
            own[:-1] = [
                min(n, len(node.pages) - kept) if s.leaf is node else n for n, s in zip(own, self.running, strict=False)
            ]
        own[-1] = -(-(context + 1) // PAGE) - matched // PAGE
        prompt = sequence.prompt_length - 1
        if sequence.share and matched < prompt and prompt % PAGE:
            own[-1] += 1  # the path's leaf copies the prompt's last page
        ends = np.unique(last)
        grown = -(-(length - 1 + np.minimum.outer(ends, remaining)) // PAGE) - -(-length // PAGE)
        alive = last >= ends[:, None]
        peak = (alive * (grown + own)).sum(1).max()
        return int(peak + self.tree.pinned_pages(node, matched) - own[:-1].sum())
