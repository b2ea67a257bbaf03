"""The page as a file: whole, self-contained, the same for the same input, and with no way out for what a model wrote."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rftfast.errors import UserError
from rftfast.report.data import RunRef, StudyData
from rftfast.report.page import write_report
from tests.made_runs import make_run, random_run
from tests.report.examples import HOSTILE, hostile_run, paper_study, rich_run


class _Reader(HTMLParser):
    """Tags with their attributes, and the text of script and style elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._open = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.inside:
            self.inside[self._open][-1] += data
        else:
            self.words.append(data)


def _page(path: Path) -> tuple[str, _Reader]:
    text = path.read_text(encoding="utf-8")
    return text, _Reader(text)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return write_report([hostile_run(tmp_path / "run", megabytes=0.05)]).path


def test_only_our_own_script_and_style_are_there(hostile: Path) -> None:
    text, page = _page(hostile)
    data, script = page.inside["script"]
    (style,) = page.inside["style"]
    (policy,) = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy is not None
    for part, name in ((script, "script-src"), (style, "style-src")):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert json.loads(data)["sets"][0]["samples"] == 171
    assert not [t for t, _ in page.tags if t in ("img", "i", "b", "iframe", "object", "link", "base")]
    assert not [name for _, a in page.tags for name in a if name.startswith("on") or name == "style"]
    assert "\0" not in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)


def test_names_cannot_end_the_data(tmp_path: Path) -> None:
    random_run(tmp_path / "run", k=2)
    names = tuple(RunRef(text, "run", role) for text, role in zip(HOSTILE.values(), ("train", "test"), strict=False))
    StudyData(HOSTILE["script"], HOSTILE["comment"], runs=names).write(tmp_path)
    _, page = _page(write_report([tmp_path]).path)
    assert len(page.inside["script"]) == 2
    assert [each["name"] for each in json.loads(page.inside["script"][0])["sets"]] == [
        f"{name.name} ({name.role})" for name in names
    ]
    assert HOSTILE["script"] in page.words


def test_nothing_is_fetched(hostile: Path) -> None:
    text, page = _page(hostile)
    named = [a[name] for _, a in page.tags for name in ("src", "href", "action", "data") if name in a]
    assert all((address or "").startswith("#") for address in named)
    assert "url(" not in text
    assert "@import" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_the_script_makes_no_markup_of_text() -> None:
    script = (Path(__file__).resolve().parents[2] / "rftfast" / "report" / "page.js").read_text()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "srcdoc",
        "fetch(",
    ):
        assert way not in script
    assert "</script" not in script


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = rich_run(tmp_path / "run")
    first = write_report([run], tmp_path / "a.html").path.read_bytes()
    assert write_report([run], tmp_path / "b.html").path.read_bytes() == first


def test_a_run_tells_its_figures_and_cost(tmp_path: Path) -> None:
    written = write_report([rich_run(tmp_path / "run")])
    assert written.path == tmp_path / "run" / "report.html"
    assert (written.samples, written.packed) == (33, 33)
    assert written.bytes == written.path.stat().st_size
    text, page = _page(written.path)
    sections = [a["id"] for t, a in page.tags if t == "section"]
    assert sections == ["results", "figures", "cost", "questions", "provenance"]
    figures = [a["id"] for t, a in page.tags if t == "figure"]
    assert figures == ["figure-distinct", "figure-lists", "figure-right", "figure-solved"]
    assert "sharing spared 50.0% of all tokens" in text
    assert "not finished" not in text


def test_several_runs_are_pooled(tmp_path: Path) -> None:
    runs = [random_run(tmp_path / name, seed=name, model=model) for name, model in (("a", "m"), ("b", "m"), ("c", "n"))]
    written = write_report(runs, tmp_path / "page.html")
    text, page = _page(written.path)
    assert "3 runs pooled" in text
    assert "figure-exclusive" in [a.get("id") for t, a in page.tags if t == "figure"]
    sets = json.loads(page.inside["script"][0])["sets"]
    assert [each["name"] for each in sets] == ["a", "b", "c"]  # two have one model: folders' names tell them apart
    others = write_report([runs[0], runs[2]], tmp_path / "two.html")
    assert [each["name"] for each in json.loads(_page(others.path)[1].inside["script"][0])["sets"]] == ["m", "n"]


def test_a_study_with_runs_of_both_roles(tmp_path: Path) -> None:
    random_run(tmp_path / "runs" / "sft", model="m")
    random_run(tmp_path / "runs" / "rft", model="m", seed=1)
    random_run(tmp_path / "runs" / "sft-test", model="m", seed=2)
    study = paper_study([RunRef("SFT", "runs/sft"), RunRef("RFT", "runs/rft"), RunRef("SFT", "runs/sft-test", "test")])
    study.write(tmp_path)
    text, page = _page(write_report([tmp_path]).path)
    assert [a["id"] for t, a in page.tags if t == "section"] == [
        "results",
        "sampling-train",
        "sampling-test",
        "figures",
        "cost",
        "questions",
        "provenance",
    ]
    assert [a["id"] for t, a in page.tags if t == "figure"] == [
        *("figure-loss", "figure-fraction", "figure-k", "figure-gain"),
        *("figure-exclusive", "figure-distinct", "figure-lists", "figure-right", "figure-solved"),
    ]
    data = json.loads(page.inside["script"][0])
    assert [(each["name"], each["first"]) for each in data["sets"]] == [
        ("SFT (train)", 0),
        ("RFT (train)", 0),
        ("SFT (test)", 2),
    ]
    assert re.search(r"41\.7<small class=\"ci\">39\.1–44\.4</small>", text)
    assert "4.2 × 10²²" in text


def test_a_study_without_runs_needs_no_browser_of_questions(tmp_path: Path) -> None:
    StudyData("t", notices=("step 'sft' failed: <why>",)).write(tmp_path)
    text, page = _page(write_report([tmp_path]).path)
    assert "step &#x27;sft&#x27; failed: &lt;why&gt;" in text
    assert not [a for t, a in page.tags if t == "section"]


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = rich_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"questions": 9, "seconds": 1, "tokens": 1}\n{"cut sho')
    assert f"{run} is not finished: 2 of 9 questions are stored." in _page(write_report([run]).path)[0]


def test_time_and_tokens_add_up_over_processes(tmp_path: Path) -> None:
    run = rich_run(tmp_path / "run")
    lines = [
        {"event": "start"},
        {"seconds": 10, "tokens": 100},
        {"seconds": 20, "tokens": 200},
        {"event": "resume"},
        {"event": "resume"},
        {"seconds": 5, "tokens": 50},
        {"event": "finished", "seconds": 6, "tokens": 60},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = _page(write_report([run]).path)[0]
    assert re.search(r'26 s</td><td class="num">260</td><td class="num">10</td>', text)
    assert "by 2 processes, one after another" in text


def test_a_greedy_run_is_called_maj1(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"q1": ["#### 3"], "q2": ["#### 9"]}, config={"temperature": 0})
    text = _page(write_report([run]).path)[0]
    assert "maj1@1, %</th>" in text
    assert "pass@1, %</th>" not in text
    assert "50.0<small" in text


def test_with_adaptive_k_only_common_k_are_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"q1": ["#### 3"] * 12, "q2": ["#### 9"] * 4})
    text = _page(write_report([run]).path)[0]
    drawn = re.search(r'<figure id="figure-right">.*?</figure>', text, re.S)
    assert drawn is not None
    assert re.findall(r'<tr><th scope="row">m</th><td class="num">(\d+)</td>', drawn[0]) == ["1", "3"]


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    for sources, words in (
        ([], "name a run directory or a study"),
        ([tmp_path], "run.json: cannot be read"),
        ([tmp_path / "nowhere"], "cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            write_report(sources)
    run = rich_run(tmp_path / "run")
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "run.json").write_text('{"format": 1, "config": {"method": "rft"}, "fingerprints": {}}')
    with pytest.raises(UserError, match=r"folder of a training run, whose curve is loss\.png"):
        write_report([trained])
    with pytest.raises(UserError, match="named 2 times"):
        write_report([run, run])
    with pytest.raises(UserError, match="samples is -1"):
        write_report([run], most=-1)
    with pytest.raises(UserError, match="cannot write"):
        write_report([run], tmp_path / "no" / "such" / "folder.html")
    StudyData("t", runs=(RunRef("a", "gone"),)).write(tmp_path)
    with pytest.raises(UserError, match="gone"):
        write_report([tmp_path])
    with pytest.raises(UserError, match="is a study"):
        write_report([tmp_path, run])
    assert not (tmp_path / "report.html").exists()


def test_torch_is_not_loaded() -> None:
    script = "import sys, rftfast.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
