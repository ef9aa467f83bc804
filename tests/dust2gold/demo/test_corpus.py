import re

from dust2gold.demo.corpus import documents
from dust2gold.demo.problems import COMPUTE


def test_corpus_is_seeded_true_and_holds_no_rationale_in_the_students_format() -> None:
    for _, text, again in zip(range(500), documents(3), documents(3), strict=False):
        assert text == again
        assert not any(mark in text for mark in ("Problem:", "Solution:", "boxed"))
        for left, op, right, value in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text):
            assert COMPUTE[op](int(left), int(right)) == int(value)
            assert op != "/" or int(left) % int(right) == 0
