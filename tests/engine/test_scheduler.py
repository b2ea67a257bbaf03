"""The scheduler with a model of integers: every sequence draws what it would have drawn alone, whatever the batch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rftfast.engine.scheduler import SequenceState
from rftfast.engine.tree import PAGE
from tests.engine.simulated import Job, Simulation, drawn_token

LETTERS = 3
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def workloads(draw: Any, exact: bool = False, continued: bool = True) -> list[Job]:
    """Questions below shared headers, questions asked twice, prompts of one token, and paths taken up in the middle."""
    letter = st.integers(0, LETTERS - 1)
    headers = draw(st.lists(st.lists(letter, max_size=60), min_size=1, max_size=3))
    jobs: list[Job] = []
    for _ in range(draw(st.integers(1, 5))):
        sort = draw(st.sampled_from(["new", "new", "again", "continued", "longer"]))
        earlier = draw(st.sampled_from(jobs)) if jobs else None
        if earlier is not None and sort == "again":
            prompt = earlier.prompt
        elif earlier is not None and sort == "continued" and continued:
            prompt = earlier.prompt + tuple(earlier.alone(LETTERS)[: draw(st.integers(0, earlier.length))])
        elif earlier is not None and sort == "longer":
            prompt = earlier.prompt + tuple(draw(st.lists(letter, max_size=20)))
        else:
            prompt = tuple(draw(st.sampled_from(headers)) + draw(st.lists(letter, min_size=1, max_size=30)))
        key, share = draw(st.integers(0, 1 << 40)), draw(st.sampled_from([True, True, True, False]))
        for sample in range(draw(st.integers(1, 6))):
            most = draw(st.integers(1, 60))
            length = most if exact else draw(st.integers(1, most))
            jobs.append(Job(key, sample, prompt, most, length, share))
    return jobs


@settings(RELAXED, max_examples=100, phases=PHASES)
@given(jobs=workloads(), spare=st.integers(0, 12), running=st.integers(1, 12), more_rows=st.integers(0, 60))
def test_every_sequence_draws_what_it_would_alone(jobs: list[Job], spare: int, running: int, more_rows: int) -> None:
    pages = max(j.pages for j in jobs) + spare
    Simulation(jobs, pages, running, running + more_rows, LETTERS).run(jobs, LETTERS)
    Simulation(jobs, pages, running, running + more_rows, LETTERS, ahead=True).run(jobs, LETTERS)


@settings(RELAXED, max_examples=100, phases=PHASES)
@given(
    jobs=workloads(),
    spare=st.integers(0, 6),
    running=st.integers(2, 8),
    more_rows=st.integers(0, 40),
    seen=st.lists(st.integers(1, 8), min_size=64, max_size=64),
    arrivals=st.lists(st.integers(0, 12), min_size=40, max_size=40),
    ahead=st.booleans(),
)
def test_too_hopeful_a_guess_costs_preemptions_and_nothing_else(
    jobs: list[Job], spare: int, running: int, more_rows: int, seen: list[int], arrivals: list[int], ahead: bool
) -> None:
    """Short lengths were seen before, so too much is admitted; and the requests come in one by one."""
    pages = max(j.pages for j in jobs) + spare
    simulation = Simulation(jobs, pages, running, running + more_rows, LETTERS, ahead=ahead)
    simulation.scheduler._lengths.extend(seen)
    for job, steps in zip(jobs, arrivals, strict=False):
        simulation.add(job)
        for _ in range(steps):
            if simulation.scheduler.busy:
                simulation.step()
    while simulation.scheduler.busy or simulation.in_flight:
        simulation.step()
    simulation.check_end(jobs, LETTERS)


@settings(RELAXED, max_examples=100, phases=PHASES)
@given(
    jobs=workloads(exact=True, continued=False),
    spare=st.integers(6, 16),
    running=st.integers(1, 12),
    more_rows=st.integers(0, 60),
)
def test_with_lengths_known_nothing_is_preempted(jobs: list[Job], spare: int, running: int, more_rows: int) -> None:
    """Fewer than 64 lengths seen and every path as long as it may get: the forecast is exact.

    The spare pages are for the pages that a path takes alone, one for each fork inside a page.
    """
    simulation = Simulation(jobs, max(j.pages for j in jobs) + spare, running, running + more_rows, LETTERS)
    simulation.run(jobs, LETTERS)
    assert simulation.scheduler.preemptions == 0
    assert simulation.order == [id(j) for j in jobs], "first come, first served"


def test_preemption_happens_when_the_guess_was_too_hopeful_and_changes_nothing():
    jobs = [Job(5, i, (0, 1, 2) * 9, 100, 100) for i in range(8)]
    simulation = Simulation(jobs, 24, 8, 64)
    simulation.scheduler._lengths.extend([4] * 64)
    simulation.run(jobs)
    assert simulation.scheduler.preemptions > 0
    assert simulation.peak == 24, "the pool was put to use"


def test_admission_fills_the_pool_as_far_as_the_lengths_allow():
    jobs = [Job(5, i, (0,) * 17, 32, 32) for i in range(12)]  # 1 page shared, 2 a path: 17 + 32 - 1 = 48 places
    simulation = Simulation(jobs, 1 + 2 * 6, 12, 64)
    simulation.run(jobs)
    assert simulation.scheduler.preemptions == 0
    assert simulation.steps <= 2 * (32 + 1) + 2, "six at a time, as many as fit"


@pytest.mark.parametrize("share", [True, False])
def test_a_pool_for_one_sequence_serves_many_in_turn(share: bool) -> None:
    jobs = [Job(q, i, (0,) * 20 + (q,) * q + (1, 2), 40, 40 - i, share) for q in range(1, 6) for i in range(3)]
    simulation = Simulation(jobs, max(j.pages for j in jobs), 4, 16)
    simulation.run(jobs)
    assert simulation.order == [id(j) for j in jobs]


def test_prompts_that_part_inside_one_page_many_times_fit_the_smallest_pool():
    """Each fork inside a page takes a page of its own; a path of many such runs must not outgrow the pool."""
    jobs, prompt = [], [0] * 3
    for q in range(6):
        prompt = [*prompt[: 3 + q], q % 2, 1, 2]
        jobs += [Job(q, i, (*prompt, 2), 20, 20) for i in range(2)]
    smallest = max(j.pages for j in jobs)
    for pages in range(smallest, smallest + 5):
        Simulation(jobs, pages, 3, 12).run(jobs)


@pytest.mark.parametrize("length", [PAGE - 1, PAGE, PAGE + 1])
def test_a_running_path_is_taken_up_at_its_newest_token(length: int) -> None:
    """The fork may fall on the end of a page, when the running path has no page of its own below it yet."""
    short = Job(1, 0, (1,) * length, 30, 30)
    jobs = [short, Job(2, 0, (*short.prompt, 2, 2), 30, 30)]
    Simulation(jobs, 20, 4, 64).run(jobs)


@pytest.mark.parametrize("length", [2 * PAGE - 1, 2 * PAGE, 2 * PAGE + 1])
def test_a_path_well_under_way_is_taken_up_at_its_newest_token(length: int) -> None:
    first = Job(1, 0, (1, 2), 60, 60)
    path = [*first.prompt, *first.alone(LETTERS)]
    taken = Job(2, 0, tuple(path[: length + 1]), 10, 10)
    simulation = Simulation([first, taken], 20, 4, 64)
    simulation.add(first)
    while not simulation.scheduler.running or len(simulation.scheduler.running[0].tokens) < length:
        simulation.step()
    simulation.add(taken)
    simulation.step()
    assert simulation.scheduler.prefill_tokens == 1, "only the prompt's first token was ever computed as a prompt"
    while simulation.scheduler.busy:
        simulation.step()
    simulation.check_end([first, taken])


def test_the_plan_is_made_anew_when_a_slot_goes_to_another_prompt() -> None:
    """The slots of the step are the same as before, and no prompt is computed: only the path in one slot differs."""
    p, q = (0,) * 40, (1,) * 40
    cached = [Job(1, 0, p, 2, 2), Job(2, 0, q, 2, 2)]
    jobs = [Job(3, 0, p, 30, 30), Job(3, 1, p, 3, 3), Job(4, 0, q, 10, 10)]
    simulation = Simulation(cached + jobs, 30, 2, 64)
    for job in cached:
        simulation.add(job)
    while simulation.scheduler.busy:
        simulation.step()
    computed = simulation.scheduler.prefill_tokens
    for job in jobs:
        simulation.add(job)
    while simulation.scheduler.busy:
        simulation.step()
    assert simulation.scheduler.prefill_tokens == computed
    simulation.check_end(cached + jobs)


def test_every_running_path_is_taken_up_at_every_token():
    first = Job(1, 0, (1, 2), 40, 40)
    drawn = first.alone(LETTERS)
    jobs = [first] + [Job(1, i, first.prompt + tuple(drawn[:m]), 8, 8) for i, m in enumerate(range(1, 40), 1)]
    simulation = Simulation(jobs, 60, 16, 64)
    simulation.run(jobs)
    assert simulation.scheduler.prefill_tokens < 60, "paths that run are computed once"


def test_a_prompt_is_computed_once_for_all_its_samples_and_its_header_once_for_all_prompts():
    header = (0, 1, 2) * 30
    jobs = [Job(q, i, (*header, *((q % 3, q // 3) * 5)), 10, 10) for q in range(4) for i in range(10)]
    shared = Simulation(jobs, 200, 16, 100)
    shared.run(jobs)
    assert len(header) + 10 <= shared.scheduler.prefill_tokens <= len(header) + 4 * 10
    assert shared.scheduler.prompt_tokens == sum(len(j.prompt) - 1 for j in jobs)
    for job in jobs:
        job.share = False
    private = Simulation(jobs, 200, 16, 100)
    private.run(jobs)
    assert private.scheduler.prefill_tokens == private.scheduler.prompt_tokens
    assert private.steps > shared.steps


def test_a_long_prompt_comes_in_chunks_while_the_others_go_on():
    jobs = [Job(1, 0, (1,), 40, 40), Job(2, 0, (2,) * 90, 5, 5)]
    simulation = Simulation(jobs, 30, 2, 10)
    for job in jobs:
        simulation.add(job)
    steps = [simulation.step() for _ in range(10)]
    assert all(any(s.payload is jobs[0] for s in step.decode) for step in steps)
    assert [sum(len(c.tokens) for c in step.chunks) for step in steps] == [9] * 9 + [8]


def test_rows_of_a_step_stand_in_depth_first_order():
    jobs = [Job(q, i, (0,) * 20 + (q, q, 1), 30, 30) for i in range(4) for q in range(3)]  # prompts take turns
    simulation = Simulation(jobs, 100, 12, 64)
    for job in jobs:
        simulation.add(job)
    step = simulation.step()
    while len(step.decode) < 12:
        step = simulation.step()
    questions = [s.payload.key for s in step.decode]
    assert sum(a != b for a, b in pairwise(questions)) == 2


def test_abort_gives_everything_back_at_any_moment():
    jobs = [Job(q, i, (0,) * 30 + (q,) * 20, 30, 30) for q in range(3) for i in range(3)]
    for moment in range(0, 40, 3):
        simulation = Simulation(jobs, 14, 4, 12)
        for job in jobs:
            simulation.add(job)
        for _ in range(moment):
            simulation.step()
        simulation.scheduler.abort()
        simulation.tree.check()
        assert not simulation.scheduler.busy
        simulation.finished.clear()
        simulation.run(jobs)


def test_expected_length_is_a_high_quantile_of_those_seen():
    simulation = Simulation([Job(0, 0, (1,), 200, 1)], 50, 4, 8)
    scheduler = simulation.scheduler
    sequence = SequenceState(None, [1, 2, 3], 1, 200)
    scheduler._lengths.extend(range(63))
    assert scheduler.expected_length(sequence) == 200
    scheduler._lengths.clear()
    scheduler._lengths.extend(range(1, 101))
    assert scheduler.expected_length(sequence) == int(np.quantile(range(1, 101), 0.9)) + 1
    sequence.tokens += [0] * 150
    assert scheduler.expected_length(sequence) == 152 + PAGE
    sequence.max_tokens = 153
    assert scheduler.expected_length(sequence) == 153


def test_the_simulation_itself_notices_a_wrong_page():
    jobs = [Job(1, i, (1,) * 20, 30, 30) for i in range(2)]
    simulation = Simulation(jobs, 30, 4, 64)
    for job in jobs:
        simulation.add(job)
    for _ in range(3):
        simulation.step()
    simulation.runner.tables[simulation.scheduler.running[0].slot, 0] = 29
    with pytest.raises(AssertionError):
        simulation.step()
    assert drawn_token(1, 0, 0, 3) == jobs[0].alone(3)[0]
