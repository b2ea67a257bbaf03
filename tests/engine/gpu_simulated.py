"""The model of integers (``simulated.py``) behind the GPU's runner, on a CPU that takes the GPU's place."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from rftfast.engine.gpu_runner import IDLE_PLACE, GpuRunner
from rftfast.engine.runner import Launched, Noise
from rftfast.engine.scheduler import Step
from rftfast.engine.tree import PAGE
from rftfast.models.decoder import StepInputs
from rftfast.ops import stops
from tests.engine.fake_gpu import FakeStreams, FakeWork, chunk_rows, listed, whole
from tests.engine.simulated import Job, SimulatedModel, Simulation, prefix_hashes


class GpuSimulatedModel(SimulatedModel):
    """Its rows are those of the work list, and it runs long after it was launched."""

    def __init__(self, pages: int, longest: int, letters: int) -> None:
        super().__init__(pages, longest, letters)
        self.config = SimpleNamespace(
            max_positions=longest, heads=3, kv_heads=1, head_dim=4, vocab_size=letters, layers=2
        )
        self.embed = torch.zeros(letters, 1)
        self.ops = SimpleNamespace(sample=whole(self.sample), check_stops=whole(stops.reference))
        self.launched: deque[tuple[dict[int, list[int]], list[list[int]]]] = deque()
        """Of each step to come: tokens that the row of each slot must find, and those that the chunks' rows must."""
        self.forward = whole(self._forward)  # type: ignore[method-assign]

    def _forward(self, step: StepInputs, _pool: object) -> torch.Tensor:
        plan, places = step.plan, step.slots.numpy()
        live = np.flatnonzero(places != IDLE_PLACE)
        if not len(live):
            assert not int(plan.work.arrays.counts[0]), "rows without a place"
            return torch.zeros(len(places), 1)  # the warm-up
        slots, chunks = self.launched.popleft()
        rows = {row: (*found, None) for row, found in enumerate(listed(plan))} if plan.rows else {}
        expected = {row: slots[int(plan.work.arrays.rows[row, 0])] for row in rows}
        rows |= {row: (*found, None) for row, found in chunk_rows(plan).items()}
        expected |= {plan.rows + i: tokens for i, tokens in enumerate(chunks)}
        assert sorted(rows) == sorted(expected) == live.tolist(), (
            "rows of the list, or of chunks, that are not the step's"
        )
        assert len({*places[live].tolist()}) == len(live), "two rows write one place"
        hashes = np.zeros(len(places), dtype=np.int64)
        for layer in (0, 1):
            values = step.tokens.numpy() if layer == 0 else hashes
            self.memory[layer, places[live] // PAGE, places[live] % PAGE] = values[live]
            for source, target, count in step.copies.tolist() if step.copies is not None else ():
                if source < 0:
                    break
                self.memory[layer, target, :count] = self.memory[layer, source, :count]
            for row, (pages, n, _) in rows.items():
                tokens = expected[row]
                assert n == len(tokens) == int(step.positions[row]) + 1
                assert pages[(n - 1) // PAGE] == places[row] // PAGE and places[row] % PAGE == (n - 1) % PAGE
                read = self.memory[layer, pages].reshape(-1)[:n]
                wanted = np.array(tokens) if layer == 0 else prefix_hashes(tokens)
                assert np.array_equal(read, wanted), f"row {row} reads wrong keys in layer {layer}"
                if layer == 0:
                    hashes[row] = prefix_hashes(read)[-1]
        return torch.zeros(len(places), 1)

    def sample(self, logits: Any, row: torch.Tensor, *rest: Any, stream: int) -> tuple[torch.Tensor, torch.Tensor]:
        live = row >= 0
        token = torch.full((len(row),), -1)
        token[live] = super().sample(logits, row[live], *(t[live] for t in rest), stream=stream)[0].long()
        return token, torch.zeros(len(row))


class GpuSimulation(Simulation):
    def __init__(
        self,
        jobs: Sequence[Job],
        pages: int,
        max_running: int,
        max_rows: int,
        letters: int = 3,
        *,
        ahead: bool,
        seed: int,
    ) -> None:
        super().__init__(jobs, pages, max_running, max_rows, letters, ahead=ahead)
        longest = max(len(j.prompt) + j.max_tokens for j in jobs)
        self.model: GpuSimulatedModel = GpuSimulatedModel(pages, longest, letters)
        self.streams = FakeStreams(seed)
        model: Any = self.model
        self.gpu = GpuRunner(model, model, self.tree, max_running, max_rows, streams=self.streams, work_type=FakeWork)
        self.runner: Any = self

    def launch(self, step: Step, noise: Sequence[Noise], before: Launched | None) -> Launched:
        rows, decoded = self.model.rows, len(step.decode)
        self.model.launched.append(({s.slot: row for s, row in zip(step.decode, rows, strict=False)}, rows[decoded:]))
        launched = self.gpu.launch(step, noise, before)
        self.gpu.list.check()
        return launched
