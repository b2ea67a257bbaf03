"""Problems by the number: drawn from the stories, checked, without duplicates, train and test apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from random import Random

from rftfast.study.world.expressions import Step, Style, numbers_of, steps_of, write_solution
from rftfast.study.world.stories import THEMES, Story
from rftfast.verify import verify

# Share of problems with so many steps; GSM8K's mean is 3.2.
STEPS = {1: 0.12, 2: 0.22, 3: 0.26, 4: 0.20, 5: 0.12, 6: 0.08}
LARGEST = 50  # of all numbers on the way


@dataclass(frozen=True)
class Problem:
    """A question with its gold solution, the theme it comes from and its number of steps."""

    question: str
    answer: str
    theme: str
    steps: int

    def row(self) -> dict[str, object]:
        """As a line of a question file; what is beside question and answer is for whoever looks at it."""
        return asdict(self)


def make_problems(
    count: int, seed: int, *, steps: Mapping[int, float] = STEPS, style: Style = Style()
) -> list[Problem]:
    """``count`` different problems; the same for the same arguments, on every machine.

    No two have the same question. Each solution is accepted by ``rftfast.verify``.
    """
    rng = Random(f"rftfast world {seed}")
    found: dict[str, Problem] = {}
    lengths, weights = tuple(steps), tuple(steps.values())
    while len(found) < count:
        wanted = rng.choices(lengths, weights)[0]
        theme, story = _draw(rng, wanted)
        question = " ".join((*story.sentences, story.asks))
        if question in found:
            continue
        assert isinstance(story.root, Step)
        answer = write_solution(story.root, rng, style)
        assert verify(answer, f"#### {story.root.value}").correct, (question, answer)
        found[question] = Problem(question, answer, theme, wanted)
    return list(found.values())


def split_problems(train: int, test: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Training and test problems; none of the test questions is among the training questions."""
    problems = make_problems(train + test, seed)
    return problems[:train], problems[train:]


def _draw(rng: Random, steps: int) -> tuple[str, Story]:
    """A usable story with so many steps: every number on the way is whole and within range."""
    while True:
        theme = rng.choice(THEMES)
        story = theme(rng)
        if len(steps_of(story.root)) == steps and in_range(story):
            return theme.__name__, story


def in_range(story: Story) -> bool:
    """Whether every number of the story and of its solution belongs to the world."""
    return all(1 < n <= LARGEST for n in numbers_of(story.root))
