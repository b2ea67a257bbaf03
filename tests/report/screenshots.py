"""The pictures of docs/report.md: ``python -m tests.report.screenshots RUN…`` with runs of the same questions.

The study is the example made of the paper's published figures; the questions are those of the runs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rftfast.errors import UserError
from rftfast.report.page import write_report
from tests.report import chromium
from tests.report.examples import paper_study

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main(runs: list[str]) -> None:
    program = chromium.find()
    if program is None:
        raise UserError("no Chromium is here; install one or set RFTFAST_CHROMIUM to its program")
    with tempfile.TemporaryDirectory() as folder, chromium.start(program, Path(folder) / "profile") as browser:
        paper_study().write(folder)
        study = write_report([folder]).path.as_uri()
        runs_page = write_report(runs, Path(folder) / "runs.html").path.as_uri()

        page = browser.open(study, height=1000)
        _at(page, "#figures")
        page.screenshot(DOCS / "report-figures.png")
        page = browser.open(study, height=640, dark=True)
        page.screenshot(DOCS / "report-dark.png")

        page = browser.open(runs_page + "#q/0/0", height=960)
        _at(page, "#questions")
        page.screenshot(DOCS / "report-question.png")
        page = browser.open(runs_page + "#q/0/0", width=390, height=844, phone=True)
        _at(page, "#question")
        page.screenshot(DOCS / "report-phone.png")


def _at(page: chromium.Page, place: str) -> None:
    """With ``place`` at the top, once what the page unpacks is there."""
    if page.evaluate("location.hash") != "":
        page.wait("document.querySelector('#question').childElementCount > 0")
    page.evaluate(f"document.querySelector('{place}').scrollIntoView()")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
