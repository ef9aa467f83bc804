"""Where an answer stands: in a box, after ####, or in a sentence."""

import re
import time

import pytest

from datamodules.components.grading.extraction import extract_answer, gold_answer, stated_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So $\boxed{5}$.", "5"),
        (r"First \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} and {more}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{ \{1, 2\} }", r"\{1, 2\}"),
        (r"\boxed {17}", "17"),
        (r"our answer is $\boxed 5$.", "5"),
        ("our answer is \\boxed 5.\nDone", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed{6} and \fbox{7}", "6"),
        *[(text, "") for text in (r"\boxed{}", r"\boxed")],
        (r"\boxed{5}. Write it in \boxed{}, in \boxed form.", "5"),
        *[(text, None) for text in (r"\boxed{5", r"\boxed{5}, or \boxed{6", "no box", "")],
        ("steps\n#### 1,080\n", "1,080"),
        ("#### 3\n#### 4", "4"),
        ("It is\n#### 42\n\nDone.", "42"),
        ("It is\n#### x + 1 \n", "x + 1"),
        ("### Plan\n#### Step 3: add\n1 + 2 = 3", None),
        ("#### 3, so \\boxed{4}", "4"),
    ],
)
def test_extract_answer(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_gold_answer() -> None:
    golds = {
        r"\boxed{\frac12}": r"\frac12",
        "#### 18": "18",
        "It has none at all.": "",
        "18": "18",
        r"$\boxed 9$.": r"\boxed 9",
    }
    golds[r"\boxed{}"] = r"\boxed{}"
    assert {solution: gold_answer(solution) for solution in golds} == golds


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 18.", "18"),
        ("The answer is: **18**.", "18"),
        ("**Answer:** 3.5 cm. Done.", "3.5 cm"),
        ("Final answer:\n$18.50", "$18.50"),
        ("An answer: maybe.\nThe answer is (B).", "(B)"),
        ("The answer is 1,200 dollars.", "1,200 dollars"),
        (r"The answer is 4, that is \boxed{5}.", "5"),
        ("The answer is 4\n#### 5", "5"),
        *[(text, None) for text in ("I checked the answer. It is 5.", "Is there an answer?", "the answer is", "")],
    ],
)
def test_an_answer_in_a_sentence(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\nIs it \\boxed{3}?\n</think>\n\nIt is \\boxed{4}.", "4"),
        ("The answer is 3.</think>The answer is 4.", "4"),
        ("<think>\\boxed{3}</think>I do not know.", None),
        ("<think>\\boxed{3}</think>\n#### 4", "4"),
        ("<think>\\boxed{2}</think>\\boxed{3}<think>\\boxed{5}</think>\\boxed{4}", "4"),
        ("<think>So \\boxed{4}", "4"),  # no trace that ends
    ],
)
def test_thoughts_state_no_answer(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer
    assert extract_answer(text) == (None if "answer is" in text else answer)
    assert stated_answer(text, re.compile(r"[35]")) == answer


def test_the_gold_answer_stands_after_the_thoughts() -> None:
    assert gold_answer("<think>\\boxed{3}</think>So \\boxed{4}.") == "4"


def test_a_pattern_comes_first() -> None:
    assert stated_answer(r"Result=7; \boxed{5}", re.compile(r"Result=(\w+)")) == "7"
    assert stated_answer("a 1 b 2", re.compile("[0-9]")) == "2"
    assert stated_answer(r"\boxed{5}", re.compile(r"Result=(\w+)")) == "5"


@pytest.mark.parametrize(
    "text",
    [
        "the answer is" + " " * 200_000,
        "answer: " * 50_000,
        "\\boxed\n" * 50_000,
        "answer is\n" * 50_000,
        "answer is **" * 30_000,
    ],
    ids=["blanks", "answers", "boxes", "lines", "stars"],
)
def test_hostile_texts_are_read_fast(text: str) -> None:
    start = time.process_time()
    stated_answer(text)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("text", [r"The answer: \boxed{", r"So the answer is \boxed{4"])
def test_a_box_that_never_closes_states_nothing(text: str) -> None:
    assert stated_answer(text) is None
