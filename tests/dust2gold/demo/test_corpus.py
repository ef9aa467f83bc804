import re
from hashlib import sha256
from itertools import islice

from dust2gold.demo.corpus import documents, notation
from dust2gold.demo.problems import COMPUTE


def test_corpus_is_seeded_true_and_holds_no_rationale_in_the_students_format() -> None:
    for _, text, again in zip(range(500), documents(3), documents(3), strict=False):
        assert text == again
        assert not any(mark in text for mark in ("Problem:", "Solution:", "boxed"))
        for left, op, right, value in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text):
            assert COMPUTE[op](int(left), int(right)) == int(value)
            assert op != "/" or int(left) % int(right) == 0


def test_corpus_is_the_one_that_the_shipped_student_was_pretrained_on() -> None:
    texts = "\n".join(islice(notation(3), 2000))
    assert sha256(texts.encode()).hexdigest() == "981da61e853c4f3105ba0da1a12ef794a4bdb6a9e31df880f1732f54625354a3"
