"""A model made of integers: page memory that can be looked into, behind the real runner and the real batch plan.

Layer 0 of a place holds the token; layer 1 a hash of all tokens up to it, computed from what the row read in layer 0.
So a row that reads one wrong place anywhere gives a wrong token, and it is caught at the row that reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from rftfast.engine.runner import Launched, Noise, Runner
from rftfast.engine.scheduler import Scheduler, SequenceState, Step
from rftfast.engine.tree import PAGE, UNKNOWN, KVTree
from rftfast.models.decoder import StepInputs
from rftfast.ops import AttentionPlan


def drawn_token(key: int, sample: int, t: int, letters: int) -> int:
    """The t-th token of a sample, a function of its name alone."""
    return hashlib.blake2b(b"%d,%d,%d" % (key, sample, t), digest_size=2).digest()[0] % letters


def prefix_hashes(tokens: Sequence[int]) -> np.ndarray:
    value, out = 17, []
    for token in tokens:
        value = (value * 1_000_003 + int(token) + 1) % (1 << 61)
        out.append(value)
    return np.array(out, dtype=np.int64)


class SimulatedModel:
    """Stands in for the decoder, its op set and the pool."""

    def __init__(self, pages: int, longest: int, letters: int) -> None:
        self.memory = np.full((2, pages, PAGE), -1, dtype=np.int64)
        self.pages = pages
        self.letters = letters
        self.config = SimpleNamespace(max_positions=longest, kv_heads=1)
        self.ops = SimpleNamespace(sample=self.sample)
        self.rows: list[list[int]] = []
        """For each row of the coming step, the tokens that it must find."""

    def forward(self, step: StepInputs, _pool: object) -> torch.Tensor:
        slots, plan = step.slots.numpy(), step.plan
        assert len(set(slots.tolist())) == len(slots), "two rows write one place"
        assert len(slots) == len(self.rows) == len(step.positions)
        check_plan(plan, len(slots))
        hashes = []
        for layer in (0, 1):
            values = step.tokens.numpy() if layer == 0 else np.array(hashes)
            self.memory[layer, slots // PAGE, slots % PAGE] = values
            for source, target, places in step.copies.tolist() if step.copies is not None else ():
                self.memory[layer, target, :places] = self.memory[layer, source, :places]
            for row, expected in enumerate(self.rows):
                n = int(plan.lens[row])
                assert n == len(expected) == int(step.positions[row]) + 1
                table = plan.tables[int(plan.row_table[row])].numpy()[: -(-n // PAGE)]
                assert table[(n - 1) // PAGE] == slots[row] // PAGE and slots[row] % PAGE == (n - 1) % PAGE
                read = self.memory[layer, table].reshape(-1)[:n]
                wanted = np.array(expected) if layer == 0 else prefix_hashes(expected)
                assert np.array_equal(read, wanted), f"row {row} reads wrong keys in layer {layer}"
                if layer == 0:
                    hashes.append(int(prefix_hashes(read)[-1]))
        return torch.zeros(len(self.rows), 1)

    def sample(
        self,
        logits: torch.Tensor,
        row: torch.Tensor,
        key: torch.Tensor,
        t: torch.Tensor,
        sample: torch.Tensor,
        *_: object,
        stream: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        draws = zip(key.tolist(), sample.tolist(), t.tolist(), strict=True)
        return torch.tensor([drawn_token(k, s, i, self.letters) for k, s, i in draws]), torch.zeros(len(row))


def check_plan(plan: AttentionPlan, rows: int) -> None:
    """Every row in one tile; a row's segments cover its pages once, in order, and their table is the row's own."""
    tiles, segments = plan.tiles.tolist(), plan.segments.tolist()
    assert [t[0] for t in tiles] == [0, *[t[1] for t in tiles][:-1]] and tiles[-1][1] == rows
    for row0, row1, first, last in tiles:
        covered = {row: 0 for row in range(row0, row1)}
        for a, b, page0, page1 in segments[first:last]:
            assert row0 <= a < b <= row1
            lead = plan.tables[int(plan.row_table[a])]
            for row in range(a, b):
                needed = -(-int(plan.lens[row]) // PAGE)
                assert covered[row] == page0, "a gap, or pages read twice"
                to = needed if page1 < 0 else page1
                own = plan.tables[int(plan.row_table[row])]
                assert torch.equal(own[page0 : min(to, needed)], lead[page0 : min(to, needed)])
                covered[row] = to
        assert all(to >= -(-int(plan.lens[row]) // PAGE) for row, to in covered.items())


@dataclass
class Job:
    """One sequence to draw: its name, its prompt, how many tokens it may draw and after how many it ends by itself."""

    key: int
    sample: int
    prompt: tuple[int, ...]
    max_tokens: int
    length: int
    share: bool = True

    def alone(self, letters: int) -> list[int]:
        return [drawn_token(self.key, self.sample, t, letters) for t in range(self.length)]

    @property
    def pages(self) -> int:
        """What Sampler.check_request asks for."""
        return -(-(len(self.prompt) + self.max_tokens) // PAGE) + 1


class Simulation:
    """``ahead``: tokens reach the scheduler one step late, as with a GPU."""

    def __init__(
        self,
        jobs: Sequence[Job],
        pages: int,
        max_running: int,
        max_rows: int,
        letters: int = 3,
        *,
        ahead: bool = False,
    ) -> None:
        longest = max(len(j.prompt) + j.max_tokens for j in jobs)
        self.tree = KVTree(pages)
        self.scheduler = Scheduler(self.tree, max_running, max_rows)
        self.model = SimulatedModel(pages, longest, letters)
        self.runner = Runner(self.model, self.model, self.tree, max_running, max_rows)  # type: ignore[arg-type]
        self.finished: dict[int, list[int]] = {}
        self.order: list[int] = []
        """Jobs by first start."""
        self.steps = 0
        self.peak = 0
        self.letters = letters
        self.ahead = ahead
        self.in_flight: tuple[list[SequenceState], list[int], Launched] | None = None

    def add(self, job: Job) -> None:
        state = SequenceState(job, list(job.prompt), len(job.prompt), job.max_tokens, share=job.share)
        self.scheduler.add(state)

    def step(self) -> Step:
        scheduler = self.scheduler
        before = self.in_flight
        step = scheduler.schedule(ahead=before is not None)
        self.tree.check()
        assert step.rows <= scheduler.max_rows
        going = [s for s in scheduler.running if not s.full]
        assert len(step.decode) == len(going) <= len(scheduler.running) <= scheduler.max_running
        assert self.ahead or len(going) == len(scheduler.running)
        assert set(map(id, step.decode)) == set(map(id, going))
        slots = [s.slot for s in step.decode]
        assert len(set(slots)) == len(slots) and all(0 <= s < scheduler.max_running for s in slots)
        rows = [self.true_tokens(s) for s in step.decode]
        for chunk in step.chunks:
            path = [t for member in [*chunk.node.ancestors()][::-1] for t in member.tokens]
            assert path[chunk.start : chunk.start + len(chunk.tokens)] == chunk.tokens
            rows += [path[: chunk.start + i + 1] for i in range(len(chunk.tokens))]
        self.model.rows = rows
        jobs = [s.payload for s in step.decode]
        started = [id(s.payload) for s in scheduler.running]
        self.order += [j for j in started if j not in self.order]
        noise = [Noise(j.key, j.sample, 1.0, 0, 1.0, 0.0) for j in jobs]
        if step.rows:
            launched = self.runner.launch(step, noise, before[2] if before else None)
            places = [len(s.tokens) for s in step.decode]
            for row, sequence in enumerate(step.decode):
                sequence.tokens.append(UNKNOWN)
                sequence.row = row
            self.in_flight = step.decode, places, launched
        else:
            assert before is not None, "a step of nothing"
            self.in_flight = None
        if not self.ahead:
            before, self.in_flight = self.in_flight, None
        if before:
            self.take(*before)
        self.tree.check()
        self.peak = max(self.peak, self.tree.n_pages - self.tree.free_pages)
        self.steps += 1
        assert self.steps < 20_000, "no end in sight"
        return step

    def true_tokens(self, sequence: SequenceState) -> list[int]:
        """What stands behind ``UNKNOWN``, too."""
        job, start = sequence.payload, sequence.prompt_length
        assert isinstance(job, Job)
        drawn = [drawn_token(job.key, job.sample, t, self.letters) for t in range(sequence.drawn)]
        assert all(t in (UNKNOWN, true) for t, true in zip(sequence.tokens[start:], drawn, strict=True))
        return [*sequence.tokens[:start], *drawn]

    def take(self, sequences: list[SequenceState], places: list[int], launched: Launched) -> None:
        for sequence, place, token in zip(sequences, places, launched.result()[0], strict=True):
            if sequence.ended:
                continue
            self.scheduler.learn(sequence, place, token)
            job = sequence.payload
            assert isinstance(job, Job)
            if place + 1 - sequence.prompt_length >= job.length:
                assert id(job) not in self.finished
                self.finished[id(job)] = sequence.tokens[sequence.prompt_length : place + 1]
                self.scheduler.finish(sequence)

    def run(self, jobs: Sequence[Job], letters: int = 3) -> None:
        """All jobs, added at once, to their end; checks what was drawn and that nothing is left behind."""
        for job in jobs:
            self.add(job)
        while self.scheduler.busy or self.in_flight:
            self.step()
        self.check_end(jobs, letters)

    def check_end(self, jobs: Sequence[Job], letters: int = 3) -> None:
        for job in jobs:
            assert self.finished[id(job)] == job.alone(letters)
        assert self.tree.pinned_pages() == 0
        assert all(node.locks == 0 for node in self.tree._by_id.values())
        whole = self.tree.child(self.tree.root)
        self.tree.append(whole, [0] * PAGE * self.tree.n_pages)  # raises if a page is lost
        self.tree.release(whole, keep=False)
        self.tree.check()
        assert self.tree.free_pages == self.tree.n_pages
