"""Study files whose steps take a second each and need no model."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from rftfast.study.graph import Step, build_graph
from rftfast.study.study_file import StudySpec, read_study

WORLDS = """
    title: Worlds
    jobs: 2
    parameters: {seeds: [0, 1]}
    steps:
      world-<seed>:
        for: {seed: <seeds>}
        kind: world
        train: 8
        test: 4
        seed: <seed>
      part-<seed>:
        for: {seed: <seeds>}
        kind: questions
        source: $world-<seed>/train.jsonl
        limit: 3
"""


def study_file(folder: Path, text: str, name: str = "study.yaml") -> Path:
    path = folder / name
    path.write_text(dedent(text))
    return path


def read(folder: Path, text: str, **settings: str) -> StudySpec:
    return read_study(str(study_file(folder, text)), settings)


def graph_of(folder: Path, text: str, **settings: str) -> dict[str, Step]:
    return build_graph(read(folder, text, **settings), folder / "out")
