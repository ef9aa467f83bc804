"""Hostile input: whatever a file or a model says, it is read, or refused with one of our errors, and in time."""

import contextlib
import json
import math
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.components.encoding.prompts import PLAIN
from datamodules.components.grading.grader import StringGrader
from datamodules.components.grading.semantic import SemanticGrader
from datamodules.components.grading.vote_groups import make_vote_groups, read_samples
from dust2gold.collect.prompt import load_prompt
from dust2gold.core.errors import InputError
from dust2gold.prepare.formats import FORMATS
from dust2gold.prepare.readers import compares_by_value, read
from dust2gold.report.analyses.predictions import read_predictions
from dust2gold.run.settings import RunSettings, load_settings
from dust2gold.run.tables import run_stages
from lightning_modules.components.voting.votes import vote
from tests.records import question, rationale

fuzz = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(codec="utf-8"), max_size=30)  # lone surrogates are no UTF-8
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)

TDG = {"question": "Problem: 1+1?", "answer": "\\boxed{2}", "type": "Algebra", "level": "Level 1"}
ROWS: dict[str, dict[str, Any]] = {
    "tdg": {**TDG, "generated_answer": ["\\boxed{2}", "\\boxed{3}"]},
    "math": {"problem": "1+1?", "solution": "\\boxed{2}", "level": "Level 1", "type": "Algebra"},
    "gsm8k": {"question": "1+1?", "answer": "so\n#### 2"},
    "asdiv": {"body": "1.", "question": "How?", "answer": "2 (nuts)", "solution_type": "Sum", "formula": "1+1=2"},
    "svamp": {"Body": "One.", "Question": "How many?", "Answer": 2.0, "Type": "Addition", "Equation": "( 1 + 1 )"},
    "multiarith": {"question": "1+1?", "final_ans": "2"},
    "math500": {"problem": "1+1?", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "test/1.json"},
    "openr1": {
        **{"problem": "1+1?", "answer": "2", "uuid": "u", "generations": ["<think>2</think>\\boxed{2}", "\\boxed{3}"]},
        **{"correctness_math_verify": [True, False], "correctness_llama": None, "finish_reasons": ["stop", "length"]},
    },
    "openmathinstruct1": {"question": "1?", "expected_answer": "2", "generated_solution": "2", "is_correct": True},
    "messages": {"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1"}], "answer": "1"},
    "records": rationale(0).to_json(),
}
RUN: dict[str, Any] = {"run": "runs/t", "student": "a b", "samples": 4, "notation": 0.5, "rows": ["kd"]}
RUN |= {"test_limit": None, "rank_data": ["a", "b"], "test_data": "c", "teacher_data": "d"}
SHOT = {"question": "1?", "rationale": "\\boxed{1}"}
PROMPT: dict[str, Any] = {"instructions": "Solve in \\boxed{}.", "ask": "Problem: {question}", "shots": [SHOT]}
NAMED = dict.fromkeys(("method", "dataset", "question_id", "subject", "level"), "x")
PREDICTION = {**NAMED, "correct": 1, "answer": "2", "gold": "2"}
SAMPLES = [rationale(q, k, logprob=-1.0, tokens=3, score=0.5).to_json() for q in range(2) for k in range(3)]


def consume(format: str, file: Path) -> None:
    compares_by_value(file, format)
    for entry in read(file, format):
        for record in entry.rationales:
            record.to_json()


READERS: dict[str, tuple[Any, Callable[[Path], object]]] = {
    **{format: (ROWS[format], partial(consume, format)) for format in FORMATS},
    "samples to vote": (SAMPLES, lambda file: make_vote_groups(read_samples([file]), [question(0), question(1)])),
    "predictions": (PREDICTION, lambda file: read_predictions(file.parent)),
    "settings of a run": (RUN, lambda file: run_stages(load_settings(str(file), {}, RunSettings))),
    "prompt": (PROMPT, load_prompt),
}
"""What is read of a good value, which the first test writes as it is."""


def write(name: str, value: Any, directory: Path) -> Path:
    """JSON lines, or YAML where the reader wants it."""
    if READERS[name][0] in (RUN, PROMPT):
        file, text = directory / "p.yaml", yaml.safe_dump(value, allow_unicode=True)
    else:
        rows = value if isinstance(value, list) else [value]
        file, text = directory / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")
    return file


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """A value with one place somewhere inside it dropped or replaced by anything."""
    if isinstance(value, (dict, list)) and value and draw(st.integers(0, 3)):
        places = list(value) if isinstance(value, dict) else range(len(value))
        place = draw(st.sampled_from(list(places)))
        if draw(st.integers(0, 5)) == 0:
            kept = [p for p in places if p != place]
            return {p: value[p] for p in kept} if isinstance(value, dict) else [value[p] for p in kept]
        inner = draw(mutated(value[place]))
        if isinstance(value, dict):
            return {**value, place: inner}
        return [*value[:place], inner, *value[place + 1 :]]
    return draw(values)


@pytest.mark.parametrize("name", READERS)
def test_good_values_are_read(tmp_path: Path, name: str) -> None:
    good, reader = READERS[name]
    reader(write(name, good, tmp_path))
    if name in FORMATS:
        assert len(list(read(tmp_path / "predictions.jsonl", name))) == 1


@pytest.mark.parametrize("name", READERS)
@fuzz
@given(st.data())
def test_readers_of_any_value(tmp_path: Path, name: str, data: st.DataObject) -> None:
    good, reader = READERS[name]
    file = write(name, data.draw(mutated(good)), tmp_path)
    with contextlib.suppress(InputError):
        reader(file)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz"])
@fuzz
@given(st.binary(max_size=60) | st.sampled_from([b"[" * 10_000, b'{"a":' * 5_000, b"1" * 10_000, b"\x1f\x8b\x08\x00"]))
def test_readers_of_any_bytes(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with contextlib.suppress(InputError):
        consume("records", tmp_path / name)


@fuzz
@given(st.text(st.sampled_from("{}[]:-*&!|>%@`\"' \n\tab0"), max_size=40))
def test_any_text_as_the_settings_of_a_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    with contextlib.suppress(InputError):
        load_settings(str(tmp_path / "p.yaml"), {}, RunSettings)


@fuzz
@given(st.lists(st.tuples(st.integers(-1, 5), st.floats(0, 1e300))))
def test_a_vote_is_won_by_who_stands(votes: list[tuple[int, float]]) -> None:
    classes, weights = [c for c, _ in votes], [w for _, w in votes]
    if not math.isfinite(sum(weights)):
        return
    winners = vote(classes, weights)
    assert set(winners) <= set(classes) - {-1}
    assert bool(winners) == any(c >= 0 for c in classes)


@fuzz
@given(texts)
def test_a_prompt_holds_its_question(text: str) -> None:
    assert text in PLAIN.ask(text)


HOSTILE = {
    "tower": "9^{9^{9^{9^{9}}}}",
    "factorials": "99999999!" + "!" * 50,
    "sum": "\\sum_{i=1}^{10^{10}} i!",
    "braces": "{" * 10_000 + "1" + "}" * 10_000,
    "open braces": "{" * 10_000,
    "fractions": "\\frac{1}{" * 10_000 + "1" + "}" * 10_000,
    "roots": "\\sqrt" * 5_000 + "2",
    "short fractions": "\\frac{1}{" * 25 + "2" + "}" * 25,
    "megabyte of digits": "7" * 1_000_000,
    "megabyte of powers": "2^" * 500_000 + "2",
    "megabyte of words": "the " * 250_000,
    "exponent": "1e999999999",
    "decimal": "0." + "3" * 290,
    "NUL": "\x00\u202e2",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_strings_are_compared_in_time(name: str) -> None:
    began = time.process_time()
    for text in (HOSTILE[name], f"\\boxed{{{HOSTILE[name]}}}", f"\\boxed{{{HOSTILE[name]}"):
        for by_value in (False, True):
            grader = StringGrader(by_value)
            assert grader.grade(text, "2")[0] != "positive"
            grader.grade("\\boxed{2}", HOSTILE[name])
    assert time.process_time() - began < 10


@pytest.mark.slow
def test_math_verify_keeps_to_its_limit() -> None:
    """Each comparison has 0.5 s of processor time, and a second more where C code is deaf to the alarm."""
    grader = SemanticGrader(workers=1, time_limit=0.5)
    pairs = [(f"\\boxed{{{text}}}", gold) for text in HOSTILE.values() for gold in ("2", "\\frac{1}{\\sqrt2}")]
    pairs += [("\\boxed{2}", text) for text in HOSTILE.values()]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    try:
        verdicts = [verdict for verdict, _ in grader.grade_many(pairs)]
        assert grader.grade_many([("\\boxed{8!}", "40320")])[0][0] == "positive"  # it still works
    finally:
        grader.close()
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert used < 1.5 * len(pairs) + 10  # some comparisons cost nothing, and as much is left for starting workers
    assert "positive" not in verdicts
