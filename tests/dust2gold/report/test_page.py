"""index.html: what is in it, that text of others stays text, and how it works in Chromium."""

import json
import random
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.grading.vote_groups import make_vote_groups
from datamodules.components.records.records import read_rationales, write_rationales
from dust2gold.core.errors import InputError
from dust2gold.report.analyses.predictions import Prediction
from dust2gold.report.page import page
from dust2gold.report.section import Study
from dust2gold.report.write import report
from tests.chromium import PROGRAM, Page, chromium
from tests.dust2gold.report.analyses.synthetic import drawn_samples, write_predictions, write_run

pytestmark = pytest.mark.filterwarnings("ignore:constrained_layout")  # a name that long leaves a figure no room
browser_needed = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium")

EVIL = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><!-- ]]> ${window.hacked = 1} "
    "**b** | \\ `c` [x](javascript:window.hacked=1) \x00\x1b[31m\u202egnp\u2028 &lt; <b>"
)


class Parts(HTMLParser):
    """The elements of a page, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def parts(run: Path) -> Parts:
    return Parts((run / "report" / "index.html").read_text(encoding="utf-8"))


def write_lines(file: Path, *rows: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 questions, text of others in it hostile, with the gate and β of one rationale each."""
    run = write_run(tmp_path_factory.mktemp("runs") / "r", questions=12, n=6)
    scored = run / "votes" / "scored.jsonl"
    evil: dict[str, Any] = {"question": EVIL, "rationale": EVIL, "level": EVIL}
    write_rationales(scored, [replace(s, **evil) if s.question_id == "q000" else s for s in read_rationales(scored)])
    write_predictions(run / "evil" / "predictions.jsonl", [Prediction(EVIL, "math", "q000", EVIL, 1.0)])
    gate = {"dataset": "math", "question_id": "q000", "question": EVIL, "gold": "1"}
    write_lines(run / "nat" / "gates.jsonl", {**gate, "tokens": ["2", EVIL], "alpha_negative": [-0.25, 0.125]})
    beta = {"id": "q000/1", "prompt": EVIL, "beta": 0.3, "tokens": [EVIL, "1", "."], "token_betas": [0.0, 0.9, 0.1]}
    write_lines(run / "nce" / "betas.jsonl", beta)
    report(run)
    return run


def test_the_page_holds_the_report_and_only_its_own_script(hostile: Path) -> None:
    found = parts(hostile)
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert not any(name.startswith("on") or name == "src" for _, attributes in found.elements for name in attributes)
    data = found.data
    for name, file in (("results", "results.json"), ("analyses", "analyses.json")):
        assert data[name] == json.loads((hostile / file).read_text(encoding="utf-8"))
    assert data["report"] + "\n" == (hostile / "report.md").read_text(encoding="utf-8")
    case = data["cases"][0]
    assert [case["question"], case["level"], case["samples"][0][0], data["tokens"][0]["tokens"][1]] == [EVIL] * 4


def test_cases_say_who_won_as_the_predictions_do(hostile: Path) -> None:
    cases = parts(hostile).data["cases"]
    scored = list(read_rationales(hostile / "votes" / "scored.jsonl"))
    assert [one["id"] for one in cases] == [f"q{number:03d}" for number in range(12)]
    assert [sample for one in cases for sample in one["samples"]] == [
        [
            s.rationale,
            -1 if s.answer is None else case["answers"].index(s.answer),
            (s.logprob or 0) / (s.tokens or 1),
            s.score,
        ]
        for s, case in zip(scored, (one for one in cases for _ in range(6)), strict=True)
    ]
    for one in cases:
        assert set(one["elected"]) == {"sc", "ws", "asc", "asc-1+s", "asc-1+2s"}
        for method, elected in one["elected"].items():
            share = (one["right"] in elected) / max(1, len(elected))
            assert one["correct"][method] == pytest.approx(share), (one["id"], method)
        assert one["correct"].keys() >= {"cot-kd", "neg", "nat", "nce"}


def test_token_values_that_are_none_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, questions=3, n=2)
    for row in (
        {"tokens": ["a"], "alpha_negative": []},
        {"alpha_negative": [1]},
        {"tokens": ["a"], "alpha_negative": "x"},
    ):
        write_lines(run / "nat" / "gates.jsonl", {"question_id": "q", "question": "?", **row})
        with pytest.raises(InputError) as caught:
            report(run)
        assert caught.value.file == str(run / "nat" / "gates.jsonl")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def texts(browser: Page, selector: str) -> list[str]:
    found: list[str] = browser.run(f"[...document.querySelectorAll({selector!r})].map(each => each.textContent)")
    return found


def look(browser: Page, tab: str) -> None:
    browser.run(f"location.hash = {tab!r}; new Promise(done => setTimeout(done, 50))")


def press(browser: Page, selector: str, times: int = 1) -> None:
    browser.run(f"for (let k = 0; k < {times}; k++) document.querySelector({selector!r}).click()")
    browser.run("new Promise(done => setTimeout(done, 50))")


def search(browser: Page, text: str) -> float:
    """Types into the search box; returns the milliseconds until the list has changed."""
    found: float = browser.run(
        "(() => { const box = document.querySelector('[type=search]'), start = performance.now();"
        f" box.value = {text!r}; box.dispatchEvent(new Event('input')); document.body.offsetHeight;"
        " return performance.now() - start })()"
    )
    return found


@browser_needed
def test_the_report_has_sortable_tables_and_figures_with_tips(hostile: Path, browser: Page) -> None:
    browser.open(hostile / "report" / "index.html")
    assert len(texts(browser, "#tabs a")) == 4
    assert len(texts(browser, "figure svg:not(.key)")) == 3
    nat = next(row for row in parts(hostile).data["results"] if row["method"] == "nat" and row["subject"] == "all")
    tips = browser.run("[...document.querySelectorAll('.mark')].map(mark => mark.dataset.tip)")
    assert [tip for tip in tips if tip.startswith(f"nat: {100 * nat['accuracy']:.2f}% (")]
    browser.run("document.querySelector('figure').scrollIntoView(); new Promise(done => setTimeout(done, 100))")
    spot = browser.run(
        "(({ x, y }) => ({ x: x + 4, y: y + 4 }))(document.querySelector('.mark circle').getBoundingClientRect())"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", **spot)
    assert texts(browser, "#tip:not([hidden])") == tips[:1]

    browser.run("document.querySelectorAll('article table')[2].id = 'accuracy'")  # after the set-up's two
    assert texts(browser, "#accuracy th")[0] == "method"
    first = "#accuracy tbody tr td:nth-child(3)"
    unsorted = texts(browser, first)
    for times, falling in ((1, True), (2, False)):
        press(browser, "#accuracy th:nth-child(3)")
        shown = texts(browser, first)
        numbers = [float(text) for text in shown[:-1] if text != "-"]
        assert numbers == sorted(numbers, reverse=falling), times
        assert shown[-1] == unsorted[-1], "the number of questions stays the last row"
        assert sorted(shown) == sorted(unsorted)
    assert browser.complaints == []


@browser_needed
def test_the_verdict_is_shown_whole(hostile: Path, browser: Page) -> None:
    """Its items go on over several lines, and a comment stands before its last paragraph."""
    browser.open(hostile / "report" / "index.html")
    written = (hostile / "report.md").read_text(encoding="utf-8").partition("## Verdict")[2].partition("## ")[0]
    paragraphs = [
        re.sub(r"<!--.*-->\n|^- |[*`\\]", "", text, flags=re.MULTILINE) for text in written.strip().split("\n\n")
    ]
    assert len(paragraphs) > 3
    shown = " ".join(" ".join(texts(browser, "article")).split())
    for paragraph in paragraphs:
        assert " ".join(paragraph.split()) in shown


@browser_needed
def test_cases_are_found_and_shown(hostile: Path, browser: Page) -> None:
    browser.open(hostile / "report" / "index.html", "#cases")
    cases, ids = parts(hostile).data["cases"], ".questions tbody td:first-child"
    assert texts(browser, ".count") == ["12 of 12 questions"]
    press(browser, "[data-method=sc]")
    right = [one for one in cases if one["correct"]["sc"] == 1]
    assert 0 < len(right) < 12
    assert texts(browser, ids) == [one["id"] for one in right]
    press(browser, "[data-method=asc]", 2)
    assert texts(browser, ids) == [one["id"] for one in right if one["correct"]["asc"] == 0]
    press(browser, "[data-method=sc]", 3)
    press(browser, "[data-method=asc]", 2)
    subject = "const list = document.querySelector('.filters select'); list.value = 'Geometry'"
    browser.run(f"{{ {subject}; list.dispatchEvent(new Event('change')) }}")
    assert texts(browser, ids) == ["q002", "q007"]
    search(browser, "Q007")
    assert texts(browser, ids) == ["q007"]
    press(browser, ".questions tbody tr")
    one = cases[7]
    assert texts(browser, ".detail h2, .detail .asked, .detail .gold") == ["q007", one["question"], one["gold"]]
    assert texts(browser, ".detail details .text") == [sample[0] for sample in one["samples"]]
    cells = texts(browser, ".detail tbody td")
    rows = {cells[k][:-2]: cells[k + 1 : k + 5] for k in range(0, len(cells), 5)}  # without the sign of right or wrong
    for number, answer in enumerate(one["answers"]):
        votes, _, score, elected = rows[answer]
        own = [sample for sample in one["samples"] if sample[1] == number]
        assert int(votes) == len(own)
        assert float(score) == pytest.approx(sum(sample[3] for sample in own), abs=1e-3)
        assert elected == ", ".join(method for method, winners in one["elected"].items() if number in winners)
    assert browser.complaints == []


@browser_needed
def test_tokens_are_coloured(hostile: Path, browser: Page) -> None:
    browser.open(hostile / "report" / "index.html", "#gate")
    colours = browser.run(
        "[...document.querySelectorAll('.tokens .text span')].map(each => each.style.backgroundColor)"
    )
    assert colours == ["rgba(0, 114, 178, 0.75)", "rgba(213, 94, 0, 0.376)"]
    look(browser, "#beta")
    assert texts(browser, "main > div:not([hidden]) small") == ["β = 0.300"]
    assert len(texts(browser, "main > div:not([hidden]) .text span")) == 3
    assert browser.complaints == []


@browser_needed
def test_text_of_others_does_nothing(hostile: Path, browser: Page) -> None:
    for tab in ("#report", "#cases/0", "#gate", "#beta"):
        browser.open(hostile / "report" / "index.html", tab)
        look(browser, tab)
        assert browser.run("[window.hacked, document.querySelectorAll('img, main script').length]") == [None, 0]
    look(browser, "#cases/0")
    shown = texts(browser, ".detail .asked")[0]
    assert shown.startswith("</script><script>window.hacked = 1</script>")
    assert "\\u0000\\u001b[31m\\u202egnp\\u2028" in shown, "what draws nothing is spelled out"
    assert browser.run("[...document.links].every(link => ['file:', 'data:'].includes(link.protocol))")
    assert browser.complaints == []


@browser_needed
def test_a_figure_that_is_not_drawn_is_the_picture_beside(hostile: Path, browser: Page, tmp_path: Path) -> None:
    shutil.copy(next((hostile / "report").glob("*.png")), tmp_path / "x.png")
    (tmp_path / "index.html").write_text(page("![X](report/x.png)", [], {}, {"x.png": ("other", "math")}, None))
    browser.open(tmp_path / "index.html")
    assert browser.run("document.querySelector('figure img').naturalWidth") == 1050
    assert texts(browser, "figcaption") == ["X"]
    assert browser.complaints == []


@browser_needed
@pytest.mark.slow
def test_five_thousand_questions_of_sixteen_samples_stay_usable(browser: Page, tmp_path: Path) -> None:
    words, numbers = [f"word{k}" for k in range(500)], random.Random(0)
    drawn = drawn_samples(5000, 16)
    groups = make_vote_groups([replace(s, rationale=" ".join(numbers.choices(words, k=80))) for s in drawn])
    write_predictions(tmp_path / "predictions.jsonl", [])
    (tmp_path / "index.html").write_text(page("# Results", [], {}, {}, Study(tmp_path, [], [], {"math": groups})))
    assert (tmp_path / "index.html").stat().st_size > 45e6
    seconds = []
    for _ in range(2):  # a machine that does something else may need a second try
        start = time.perf_counter()
        browser.open(tmp_path / "index.html", "#cases")
        assert texts(browser, ".count") == ["5,000 of 5,000 questions"]
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 3
    press(browser, "[type=checkbox]")
    took = search(browser, "word7 ")
    found = sum(any("word7 " in sample.rationale for sample in group.samples) for group in groups)
    assert texts(browser, ".count") == [f"{found:,} of 5,000 questions"]
    assert took < 300
    assert browser.complaints == []
