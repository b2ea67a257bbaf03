"""The page as a reader has it, in a real browser: opened from the disk, looked at, searched, filtered, walked through by keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rftfast.report.data import RunRef
from rftfast.report.page import write_report
from tests.made_runs import random_run
from tests.negatives.hand_made import SLIP, make_rollouts, make_run, response, rolled, state
from tests.report import chromium
from tests.report.chromium import Chromium, Page
from tests.report.examples import HOSTILE, hostile_run, paper_study, rich_run, with_steps
from tests.report.test_steps import rolled_out

_LIST = "[...document.querySelectorAll('#list a .what')].map((e) => e.textContent)"
_DETAIL = "document.querySelector('#question').innerText"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = chromium.find()
    if program is None:
        pytest.skip("no Chromium is here; install one or set RFTFAST_CHROMIUM to its program")
    with chromium.start(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    random_run(folder / "sft", model="m")
    random_run(folder / "rft", model="m", seed=1)
    paper_study([RunRef("SFT", "sft"), RunRef("RFT", "rft")]).write(folder)
    return write_report([folder]).path


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([rich_run(tmp_path_factory.mktemp("rich") / "run")]).path


def _open(browser: Chromium, path: Path, place: str = "", **more: bool | int) -> Page:
    page = browser.open(path.as_uri() + place, **more)  # type: ignore[arg-type]
    page.wait("document.querySelectorAll('#list a').length > 0")
    if place.startswith("#q"):
        page.wait("document.querySelector('#question').childElementCount > 0")
    return page


def _search(page: Page, words: str) -> list[str]:
    before = page.evaluate("document.querySelector('#status').textContent = ''")
    assert before == ""
    page.evaluate(f"document.querySelector('#query').value = {words!r}")
    page.evaluate("document.querySelector('#query').dispatchEvent(new Event('input'))")
    page.wait("/questions/.test(document.querySelector('#status').textContent)")
    found = page.evaluate(_LIST)
    assert isinstance(found, list)
    return found


def _choose(page: Page, name: str, value: str) -> list[str]:
    page.evaluate(
        f"document.querySelector('#{name}').value = '{value}';"
        f"document.querySelector('#{name}').dispatchEvent(new Event('change'))"
    )
    found = page.evaluate(_LIST)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(("width", "phone", "dark"), [(1280, False, False), (390, True, False), (1280, False, True)])
def test_figures_are_seen_and_the_console_is_silent(
    browser: Chromium, study: Path, width: int, phone: bool, dark: bool
) -> None:
    page = _open(browser, study, width=width, phone=phone, dark=dark)
    charts = page.evaluate(
        "[...document.querySelectorAll('svg.chart')].map((e) => { const b = e.getBoundingClientRect();"
        " return [b.width, b.height, e.querySelectorAll('circle, rect, polygon').length, e.querySelector('title').textContent]; })"
    )
    assert len(charts) == 9
    for wide, high, marks, title in charts:
        assert wide > 300 and high > 60 and marks > 0 and title
    # Nothing sticks out sideways: tables that are too wide scroll in themselves.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # Text stands out from what is behind it, in either scheme.
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert _contrast(ink, paper) > 7
    label = page.evaluate("getComputedStyle(document.querySelector('svg .label')).fill")
    assert _contrast(label, paper) > 4.5
    line = page.evaluate("getComputedStyle(document.querySelector('svg polyline.c0')).stroke")
    assert _contrast(line, paper) > 3
    assert page.errors() == []
    assert page.requests() == [study.as_uri()]
    page.close()


def test_search_filters_and_order(browser: Chromium, study: Path) -> None:
    page = _open(browser, study)
    everything = page.evaluate(_LIST)
    assert everything == [f"What is {i}+{i}+1?" for i in range(1, 7)]
    assert _search(page, "3+3") == ["What is 3+3+1?"]
    assert page.evaluate("document.querySelector('#status').textContent").startswith("1 of 6 questions")
    assert page.evaluate("document.querySelector('#list .hit').textContent") == "3+3"
    assert _search(page, "WHAT 5+5") == ["What is 5+5+1?"]
    assert _search(page, "nothing like it") == []
    assert _search(page, "") == everything
    # In the samples: this equation list is one that only the sixth question has.
    assert _search(page, "2*6=12") == []
    page.evaluate("document.querySelector('#deep').checked = true")
    assert _search(page, "2*6=12") == ["What is 6+6+1?"]
    page.evaluate("document.querySelector('#deep').checked = false")
    _search(page, "")
    right = "[...document.querySelectorAll('#list .figures-of')].map((e) => parseInt(e.textContent))"
    _choose(page, "order", "hard")
    counts = page.evaluate(right)
    assert counts == sorted(counts) and len(counts) == 6
    _choose(page, "order", "easy")
    assert page.evaluate(right) == sorted(counts, reverse=True)
    _choose(page, "order", "file")
    # The other run has its own questions.
    page.evaluate("document.querySelector('#run').value = '1'")
    page.evaluate("document.querySelector('#run').dispatchEvent(new Event('change'))")
    page.wait("document.querySelector('#list a')?.getAttribute('href') === '#q/1/0'")
    assert page.errors() == []
    page.close()


def test_filters_by_verdict_and_by_solved(browser: Chromium, rich: Path) -> None:
    page = _open(browser, rich)
    assert _choose(page, "solved", "unsolved") == ["How many apples are left?"]
    assert _choose(page, "solved", "several") == ["What is 2+3+4?"]
    _choose(page, "solved", "")
    assert _choose(page, "verdict", "wrong_equation") == ["What is 2+3+4?"]
    assert len(_choose(page, "verdict", "wrong_answer")) == 2
    page.close()


def test_a_question_tells_why(browser: Chromium, rich: Path) -> None:
    page = _open(browser, rich, "#q/0/0")
    told = page.evaluate("[...document.querySelectorAll('.sample')].map((e) => e.querySelector('summary').textContent)")
    why = {int(re.findall(r"#(\d+)", text)[0]): text for text in told}
    assert set(why) == set(range(9))
    for sample, words in (
        (0, "not kept: the first of its list, then #3 was farther"),
        (1, "kept: the first of its list"),
        (2, "not kept: the very text of #0"),
        (3, "kept: 62 edits from the other lists’ paths, #0 had 14"),
        (4, "not kept: 13 edits from the other lists’ paths, #3 had 62"),
        (5, "false equation 9"),
        (6, "wrong answer 10and a false equation"),
        (7, "no answer"),
        (8, "wrong answer 6"),
    ):
        assert words in why[sample], why[sample]
    for sample in (5, 6):
        page.evaluate(
            f"document.querySelectorAll('.sample').forEach((e) => {{ if (e.textContent.startsWith('#{sample}')) e.open = true; }})"
        )
    page.wait("document.querySelectorAll('.false').length === 2")
    assert page.evaluate("[...document.querySelectorAll('.false')].map((e) => e.textContent)") == [
        "<<2+3=6>>",
        "<<5+4=10>>",
    ]
    # One verdict at a time.
    page.evaluate("document.querySelector('.verdicts .v-no_answer').click()")
    assert page.evaluate("document.querySelectorAll('.sample').length") == 1
    assert page.evaluate("document.querySelector('.verdicts [aria-pressed=true]').textContent") == "– no answer1"
    assert page.errors() == []
    page.close()


def test_the_keyboard_is_enough(browser: Chromium, rich: Path) -> None:
    page = _open(browser, rich)
    page.press("/", "/")
    assert page.evaluate("document.activeElement.id") == "query"
    assert page.evaluate("document.querySelector('#query').value") == ""
    page.press("Escape")
    page.press("j", "j")
    page.wait(f"{_DETAIL}.includes('What is 2+3+4?')")
    page.press("j", "j")
    page.wait(f"{_DETAIL}.includes('How many apples')")
    page.press("j", "j")  # the last stays
    page.press("k", "k")
    page.wait(f"{_DETAIL}.includes('What is 2+3+4?')")
    assert page.evaluate("document.querySelector('#list [aria-current]').textContent").startswith("What is 2+3+4?")
    assert page.evaluate("location.hash") == "#q/0/0"
    page.press("Escape")
    assert page.evaluate(_DETAIL) == ""
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#q/0/0"
    assert page.errors() == []
    page.close()


def test_on_a_phone_list_and_question_take_turns(browser: Chromium, rich: Path) -> None:
    page = _open(browser, rich, width=390, height=844, phone=True)
    finder = "document.querySelector('.finder').offsetHeight"
    assert page.evaluate(finder) > 0
    page.evaluate("document.querySelector('#list a').click()")
    page.wait(f"{_DETAIL}.includes('What is 2+3+4?')")
    assert page.evaluate(finder) == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("document.querySelector('.back').click()")
    assert page.evaluate(finder) > 0
    page.close()


def test_hostile_texts_stay_texts(browser: Chromium, tmp_path: Path) -> None:
    path = write_report([hostile_run(tmp_path / "run", megabytes=2.0)]).path
    page = _open(browser, path, "#q/0/0")
    tags = page.evaluate("document.querySelectorAll('body img, body i, body b:not(button b), main script').length")
    for i, text in enumerate(HOSTILE.values()):
        page.evaluate(f"location.hash = '#q/0/{i}'")
        page.wait(f"document.querySelector('#list [aria-current]')?.dataset.question === '{i}'")
        page.evaluate(
            "(async () => { for (const b of document.querySelectorAll('#question .more, #question > button')) b.click();"
            " for (const d of document.querySelectorAll('#question details')) d.open = true;"
            " await new Promise((done) => setTimeout(done, 30)); })()"
        )
        shown = page.evaluate("[...document.querySelectorAll('.asked')].map((e) => e.textContent)[0]")
        assert shown.startswith(_as_shown(text)), (shown, text)
    assert tags == 0
    assert page.evaluate("document.querySelectorAll('body img, body i, body b:not(button b), main script').length") == 0
    assert page.evaluate("'broken' in window") is False
    assert (
        page.evaluate("Object.prototype.toString.call(document.querySelector('#question'))") == "[object HTMLElement]"
    )
    assert "The first 20,000 of" in page.evaluate(_DETAIL)
    assert page.errors() == []
    assert page.requests() == [path.as_uri()]
    page.close()


def test_a_bounded_page_tells_what_is_left_out(browser: Chromium, tmp_path: Path) -> None:
    path = write_report([rich_run(tmp_path / "run")], most=4).path
    page = _open(browser, path, "#q/0/1")
    status = page.evaluate("document.querySelector('#status').textContent")
    assert "8 of 33 samples are in this page with their text" in status
    assert "--samples 0" in status
    text = page.evaluate(_DETAIL)
    assert "And 2 wrong answer, not in this page." in text
    assert "Not in this page: 12 wrong answer." in text
    page.close()


def test_steps_are_drawn_with_their_values(browser: Chromium, tmp_path: Path) -> None:
    path = write_report([with_steps(rich_run(tmp_path / "run"))]).path
    page = _open(browser, path, "#q/0/0")
    assert page.evaluate("[...document.querySelector('.steps').querySelectorAll('meter')].map((e) => e.value)") == [
        0.62,
        1,
    ]
    assert page.evaluate("document.querySelector('.steps').textContent") == (
        "First <<2+3=5>>50.62+0.12<b>then</b> 91.00−0.38unvalued"
    )
    assert page.errors() == []
    page.close()


def test_steps_from_rollouts_are_marked_in_words(browser: Chromium, tmp_path: Path) -> None:
    page = _open(browser, write_report([rolled_out(tmp_path)]).path, "#q/0/0")
    page.evaluate("document.querySelectorAll('.sample').forEach((e) => { e.open = true; })")
    page.wait("document.querySelectorAll('.steps').length === 2")
    notes = "[...document.querySelectorAll('.steps .note')].map((e) => [e.closest('li').querySelector('.text').textContent, e.textContent])"
    assert sorted(page.evaluate(notes)) == [
        ["Half <<5/2=2.5>>2.5", "first pit: from here on nothing was right"],
        ["Sum <<2+3=5>>5", "no progress"],
    ]
    assert page.evaluate("document.querySelectorAll('.steps .false').length") == 0
    assert page.errors() == []
    page.close()


def test_a_false_equation_is_marked_inside_its_step(browser: Chromium, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [("Add <<2+2=4>>4\n" + SLIP, "stop")])
    shifted = rolled(response(2, states=(None, 0, 1)), states=[state("+++++"), state("-----")])
    text = "Add <<2+2=4>>4\n" + SLIP
    moved = replace(shifted.responses[0], sample_index=0, text=text, ends=(15, 15 + SLIP.index("\n") + 1, len(text)))
    make_rollouts(run / "rollouts", replace(shifted, responses=(moved,)))
    page = _open(browser, write_report([run]).path, "#q/0/0")
    page.evaluate("document.querySelectorAll('.sample').forEach((e) => { e.open = true; })")
    page.wait("document.querySelectorAll('.steps').length === 1")
    assert page.evaluate("[...document.querySelectorAll('.steps .false')].map((e) => e.textContent)") == ["<<2+3=6>>"]
    page.close()


def test_it_prints(browser: Chromium, rich: Path, tmp_path: Path) -> None:
    page = _open(browser, rich, "#q/0/0", dark=True)
    page.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.querySelector('.finder').offsetHeight") == 0
    assert page.evaluate("document.querySelector('.asked').offsetHeight") > 0
    page.close()


def _as_shown(text: str) -> str:
    """What cannot be seen is shown by its code."""
    hidden = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
    return hidden.sub(lambda m: f"U+{ord(m[0]):04X}", text)


def _contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def light(colour: str) -> float:
        parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    x, y = sorted((light(a), light(b)))
    return (y + 0.05) / (x + 0.05)
