"""Pages to look at and to test: the published figures of arXiv 2308.01825 as a study, and runs with hostile or rich texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import log2
from pathlib import Path

from rftfast.data import Completion, Question, RunDir
from rftfast.evaluate.intervals import wilson
from rftfast.report.data import CostRow, Estimate, Fit, Point, RunRef, Series, StudyData, TableRow
from rftfast.select import select_paths
from rftfast.verify import verify
from tests.made_runs import CONFIG

_QUESTIONS = 1319  # of GSM8K's test set
_MODELS = ("LLaMA-7B", "LLaMA2-7B", "LLaMA-13B", "LLaMA2-13B", "LLaMA-33B", "LLaMA-65B", "LLaMA2-70B")
_LOSS = (1.80, 1.75, 1.73, 1.68, 1.62, 1.57, 1.50)
_ICL = (11.0, 14.6, 17.8, 28.7, 35.6, 50.9, 56.8)
_SFT = (35.9, 41.6, 43.0, 50.0, 54.6, 59.3, 63.2)
_RFT = (41.7, 47.5, 49.1, 54.8, 54.5)
_U13B = (49.3, 50.3, 52.1, 55.4, 56.5, 59.0, 62.3)
_DISTINCT = (5.25, 5.19, 5.26, 5.29, 2.78)
_FRACTIONS = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)
_BY_FRACTION = {
    "LLaMA-7B": (35.9, 30.9, 22.7, 17.9, 14.3, 9.5),
    "LLaMA-13B": (43.0, 36.1, 27.4, 19.5, 14.2, 8.6),
    "LLaMA-33B": (54.6, 50.8, 44.6, 39.3, 29.2, 25.3),
    "LLaMA2-70B": (63.2, 61.0, 57.8, 57.8, 52.8, 27.4),
}
_KS = (1, 3, 6, 12, 25, 50, 100)
_BY_K = {
    "LLaMA-7B": (37.6, 39.0, 39.5, 41.6, 40.9, 40.7, 41.7),
    "LLaMA2-7B": (43.4, 45.3, 45.6, 45.3, 46.5, 47.0, 47.5),
    "LLaMA-13B": (42.7, 45.2, 46.8, 48.0, 46.0, 49.4, 49.1),
    "LLaMA2-13B": (52.1, 51.9, 52.2, 53.1, 52.6, 54.5, 54.8),
}


def paper_study(runs: Sequence[RunRef] = ()) -> StudyData:
    """The paper's Tables 1, 4 and 5 and its Figures 2 and 3."""
    rows = [TableRow(name, "ICL, 8 shots", _share(acc)) for name, acc in zip(_MODELS, _ICL, strict=True)]
    rows += [TableRow(name, "SFT", _share(acc), data_rows=7473) for name, acc in zip(_MODELS, _SFT, strict=True)]
    rows += [
        TableRow(name, "RFT, k = 100", _share(acc), distinct_paths=paths)
        for name, acc, paths in zip(_MODELS[:5], _RFT, _DISTINCT, strict=True)
    ]
    rows += [
        TableRow(name, "RFT, paths of four models", _share(acc), data_rows=103_400, distinct_paths=12.84)
        for name, acc in zip(_MODELS, _U13B, strict=True)
    ]
    fractions = tuple(
        Series(name, points, Fit(*_line([(log2(p.x), p.y) for p in points[:4]]), text))
        for name, accs in _BY_FRACTION.items()
        for points in [tuple(_point(x, acc) for x, acc in zip(_FRACTIONS, accs, strict=True))]
        for text in [f"{100 * _line([(log2(p.x), p.y) for p in points[:4]])[0]:.1f} points a doubling"]
    )
    loss = tuple(
        Series(
            name,
            tuple(Point(x, acc / 100) for x, acc in zip(_LOSS, accs, strict=True)),
            Fit(slope, intercept, f"−{-100 * slope:.0f} points a nat"),
        )
        for name, accs in (("SFT", _SFT), ("ICL", _ICL))
        for slope, intercept in [_line([(x, acc / 100) for x, acc in zip(_LOSS, accs, strict=True)])]
    )
    gain = tuple(
        Series(name, (Point(paths, (rft - sft) / 100),))
        for name, paths, rft, sft in zip(_MODELS, _DISTINCT, _RFT, _SFT, strict=False)
    )
    return StudyData(
        "Scaling relationship on learning mathematical reasoning",
        "GSM8K; the published figures of arXiv 2308.01825, with intervals for its 1,319 test questions.",
        table=tuple(rows),
        curves={
            "loss": loss,
            "fraction": fractions,
            "k": tuple(
                Series(name, tuple(_point(k, acc) for k, acc in zip(_KS, accs, strict=True)))
                for name, accs in _BY_K.items()
            ),
            "gain": gain,
        },
        runs=tuple(runs),
        cost=(
            CostRow("pre-training, LLaMA-7B", 4.2e22, 82_000, device="A100-80GB"),
            CostRow("SFT, 3 epochs", 1.7e17, 0.6, device="A100-80GB"),
            CostRow("RFT inference, k = 100", 1.4e18, 10, device="A100-80GB"),
            CostRow("RFT training", 3.0e18, 9, device="A100-80GB", note="on the paths of five models"),
        ),
        provenance={"source": "arXiv 2308.01825, Tables 1, 4 and 5", "intervals": "Wilson, 95 %, one run each"},
    )


HOSTILE = {
    "script": "</script><script>window.broken = 1</script>",
    "comment": "<!--<script>window.broken = 1",
    "image": "<img src=x onerror='window.broken = 1'> &lt;b&gt; &amp; \"quoted\"",
    "control": "NUL \0 bell \x07 escape \x1b[31m line\u2028separator",
    "direction": "\u202eright to left\u202c \u2067isolated \u200fmark",
    "halves": "half \ud83d a pair \U0001f600 and the other \ude00",
    "template": "{{data}} ${window.broken = 1} {title}",
    "prototype": "__proto__ constructor",
    "words": "מאה ועשר ÄÖÜ İstanbul 漢字",
}


def hostile_run(path: Path, megabytes: float = 1.0) -> Path:
    """Samples and questions that try to break out of a page; the last sample is very long."""
    samples = [f"{text} <<1+1=2>>2, <<2+2={text[:5].replace('>', '')}>>\n#### 4" for text in HOSTILE.values()]
    samples += ["<<2+2=4>>" + text + "\n#### 4" for text in HOSTILE.values()]
    samples.append("long " + "x y " * int(megabytes * 250_000) + "\n#### 5")
    questions = [
        Question(f"<b>{name}</b>", f"{text} What is 2+2?", f"#### 4\n{text}") for name, text in HOSTILE.items()
    ]
    return made(path, {q: samples for q in questions}, model="<i>model</i> \u202e\0 \ud800 " + HOSTILE["script"])


def rich_run(path: Path) -> Path:
    """One solved question of each way in which a path is kept or not, and one unsolved."""
    solved = Question("solved", "What is 2+3+4?", "2+3=<<2+3=5>>5, 5+4=<<5+4=9>>9\n#### 9")
    paths = [
        "First <<2+3=5>>5 and <<5+4=9>>9.\n#### 9",  # 0: first, replaced by 3
        "Or <<2+4=6>>6, then <<6+3=9>>9.\n#### 9",  # 1: first, kept
        "First <<2+3=5>>5 and <<5+4=9>>9.\n#### 9",  # 2: the same text
        "Quite another way of saying that it comes to <<2+3=5>>5, whence <<5+4=9>>9 in the end.\n#### 9",  # 3: farther
        "And <<2+3=5>>5, <<5+4=9>>9.\n#### 9",  # 4: nearer
        "It is <<2+3=6>>6 and <<6+3=9>>9.\n#### 9",  # 5: a false equation behind a right answer
        "It is <<2+3=5>>5 and <<5+4=10>>10.\n#### 10",  # 6: wrong, with a false equation
        "It is <<2+3=5>>5.",  # 7: no answer
        "It is <<2*3=6>>6.\n#### 6",  # 8: wrong
    ]
    unsolved = Question("unsolved", "How many apples are left?", "<<7-3=4>>4\n#### 4")
    wrong = [f"There are <<7-{i}={7 - i}>>{7 - i} apples.\n#### {7 - i}" for i in range(9) if i != 3]
    return made(path, {solved: paths, unsolved: [*wrong, *wrong, *wrong]}, model="rich")


def made(path: Path, samples: dict[Question, Sequence[str]], model: str) -> Path:
    """A finished run with these texts, judged and folded as ever."""
    with RunDir.open(
        path, CONFIG | {"k": 9, "seed": 0}, {"questions": "q"}, {}, notes={"model": model, "device": "cpu"}
    ) as run:
        for question, texts in samples.items():
            completions = [Completion(question.id, i, t, (1,) * 7, -1.5, "stop") for i, t in enumerate(texts)]
            verdicts = [verify(t, question.answer) for t in texts]
            good = [i for i, verdict in enumerate(verdicts) if verdict.correct]
            kept = select_paths([texts[i] for i in good], equations=[verdicts[i].equations for i in good])
            prompt = f"Question: {question.question}\nAnswer:"
            run.add(question, completions, verdicts, [good[i] for i in kept], prompt=prompt, begin=" ")
        run.metrics(
            {
                "questions": len(samples),
                "seconds": 2.0,
                "tokens": 700,
                "prompt_tokens": 900,
                "computed_prompt_tokens": 100,
            }
        )
        run.finish([question.id for question in samples])
    return path


def with_steps(run: Path) -> Path:
    """The same run, whose right samples carry values of their steps."""
    for part in (run / "samples").glob("part-*.jsonl"):
        rows = [json.loads(line) for line in part.read_text().splitlines()]
        for row in rows:
            if row.get("verdict") == "correct":
                row["steps"] = [
                    {"text": "First <<2+3=5>>5", "q": 0.62, "advantage": 0.12},
                    {"text": "<b>then</b> 9", "q": 1.0, "advantage": -0.38},
                    {"text": "unvalued", "q": None, "advantage": None},
                ]
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def _share(accuracy: float) -> Estimate:
    found = wilson(accuracy / 100, _QUESTIONS)
    return Estimate(found.value, found.low, found.high)


def _point(x: float, accuracy: float) -> Point:
    found = wilson(accuracy / 100, _QUESTIONS)
    return Point(x, found.value, found.low, found.high)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept by least squares."""
    n = len(points)
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    slope = sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)
    return slope, my - slope * mx
