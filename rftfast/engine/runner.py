"""Turns a scheduled step into tensors, runs the model on them and draws the tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rftfast.engine import plan
from rftfast.engine.scheduler import SequenceState, Step
from rftfast.engine.tree import PAGE, UNKNOWN, KVTree
from rftfast.models.decoder import Decoder, StepInputs
from rftfast.ops import AttentionPlan, KVPool

STREAM_TOKENS = 0  # the Philox stream of token noise


@dataclass
class Noise:
    """Where a sequence's draws come from, how they are cut, and what may end them."""

    key: int
    sample_index: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    ends: np.ndarray | None = None
    """uint8 [V], the flags of each token (``ops.stops``), one array for all paths that end alike; None: any may end it."""


@dataclass
class Launched:
    """A step under way. On a CPU it is done when it has been launched.

    ``flags``: what each token means for its path (``ops.stops``), once the result was asked for; 0 is "go on". None where
    nobody looked.
    """

    tokens: list[int]
    logprobs: list[float]
    flags: list[int] | None = None

    def result(self) -> tuple[list[int], list[float]]:
        """Tokens and log-probabilities, one for each of the step's ``decode``; waits for them."""
        return self.tokens, self.logprobs


class Runner:
    """Holds the page tables of running sequences. ``seconds`` adds up where the time of steps goes."""

    def __init__(self, decoder: Decoder, pool: KVPool, tree: KVTree, max_running: int, max_rows: int) -> None:
        self.decoder = decoder
        self.pool = pool
        self.tree = tree
        self.chunk_slots = max_running  # rows of `tables` from here on serve the chunks of one step
        width = min(pool.pages, -(-decoder.config.max_positions // PAGE))
        self.tables = np.zeros((max_running + max_rows, width), dtype=np.int32)
        self._tables = torch.from_numpy(self.tables)
        self._known: tuple[int, ...] = ()
        self._plan: tuple[torch.Tensor, torch.Tensor] | None = None
        self.seconds = {"plan": 0.0, "model": 0.0, "sample": 0.0}

    def run(self, step: Step, noise: Sequence[Noise]) -> tuple[list[int], list[float]]:
        """Tokens and their log-probabilities, one for each of ``step.decode``; ``noise`` goes with them."""
        return self.launch(step, noise, None).result()

    def launch(self, step: Step, noise: Sequence[Noise], before: Launched | None) -> Launched:
        """As ``run``, but the result may be asked for later, after the next launch.

        ``before`` is the launch whose tokens are still ``UNKNOWN`` in the sequences: a sequence's ``row`` says where in it.
        """
        return Launched(*self._run(step, noise, before))

    def _run(self, step: Step, noise: Sequence[Noise], before: Launched | None) -> tuple[list[int], list[float]]:
        begin = time.perf_counter()
        inputs = self._inputs(step, before.tokens if before else ())
        ready = time.perf_counter()
        if not step.decode:
            self.decoder.forward(inputs, self.pool)
            self._account(begin, ready, time.perf_counter(), 0.0)
            return [], []
        logits = self.decoder.forward(inputs, self.pool)
        done = time.perf_counter()
        count = len(step.decode)
        token, logprob = self.decoder.ops.sample(
            logits,
            torch.arange(count),
            torch.from_numpy(np.array([n.key for n in noise], dtype=np.uint64).view(np.int64)),
            torch.tensor([s.drawn for s in step.decode], dtype=torch.int32),
            torch.tensor([n.sample_index for n in noise], dtype=torch.int32),
            torch.tensor([n.temperature for n in noise], dtype=torch.float32),
            torch.tensor([n.top_k for n in noise], dtype=torch.int32),
            torch.tensor([n.top_p for n in noise], dtype=torch.float32),
            torch.tensor([n.min_p for n in noise], dtype=torch.float32),
            stream=STREAM_TOKENS,
        )
        self._account(begin, ready, done, time.perf_counter() - done)
        return token.tolist(), logprob.tolist()

    def _account(self, begin: float, ready: float, done: float, sampling: float) -> None:
        self.seconds["plan"] += ready - begin
        self.seconds["model"] += done - ready
        self.seconds["sample"] += sampling

    def _inputs(self, step: Step, before: Sequence[int]) -> StepInputs:
        slots, lens, tokens, places = self._decode_rows(step.decode, before)
        count = len(slots)
        for i, chunk in enumerate(step.chunks):
            slot = self.chunk_slots + i
            table = self.tree.table(chunk.node)
            self.tables[slot, : len(table)] = table
            positions = np.arange(chunk.start, chunk.start + len(chunk.tokens))
            slots += [slot] * len(chunk.tokens)
            lens += (positions + 1).tolist()
            tokens += chunk.tokens
            places += (self.tables[slot, positions // PAGE].astype(np.int64) * PAGE + positions % PAGE).tolist()
        lens_array = np.array(lens, dtype=np.int32)
        slot_array = np.array(slots, dtype=np.int32)
        known = () if step.chunks else tuple(slots)
        if self._plan is None or not known or known != self._known:
            size = plan.tile_rows(len(slots), self.decoder.config.kv_heads, torch.get_num_threads())
            tiles, segments = plan.build(self.tables, slot_array, lens_array, size)
            self._plan = torch.from_numpy(tiles), torch.from_numpy(segments)
            self._known = known
        return StepInputs(
            tokens=torch.tensor(tokens, dtype=torch.int64),
            positions=torch.from_numpy(lens_array - 1),
            slots=torch.tensor(places, dtype=torch.int64),
            plan=AttentionPlan(self._tables, torch.from_numpy(slot_array), torch.from_numpy(lens_array), *self._plan),
            copies=torch.tensor(step.copies, dtype=torch.int32) if step.copies else None,
            logit_rows=torch.arange(count) if step.chunks else None,
        )

    def _decode_rows(
        self, decode: Sequence[SequenceState], before: Sequence[int]
    ) -> tuple[list[int], list[int], list[int], list[int]]:
        """Slots, lengths, tokens and places of the running sequences' newest tokens; brings their tables up to date."""
        slots, lens, tokens, places = [], [], [], []
        for sequence in decode:
            leaf, slot, length = sequence.leaf, sequence.slot, len(sequence.tokens)
            assert leaf is not None
            at = length - 1
            if sequence.table_ready and leaf.pages:
                page = leaf.pages[-1]
                self.tables[slot, at // PAGE] = page
            else:  # new in this slot, or just forked at its newest token at the end of a page
                table = self.tree.table(leaf)
                page = table[at // PAGE]
                self.tables[slot, : len(table)] = table
                sequence.table_ready = True
                self._known = ()  # a slot may have gone from one sequence to another
            slots.append(slot)
            lens.append(length)
            token = sequence.tokens[at]
            tokens.append(before[sequence.row] if token == UNKNOWN else token)
            places.append(page * PAGE + at % PAGE)
        return slots, lens, tokens, places
