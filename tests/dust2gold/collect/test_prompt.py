from pathlib import Path

import pytest

from dust2gold.collect.prompt import load_prompt
from dust2gold.core.errors import InputError


def test_a_prompt_of_a_question_alone(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text('ask: "Problem:\\n{question}\\nSolution:"\n')
    prompt = load_prompt(tmp_path / "p.yaml")
    assert prompt.text(r"What is {x} in \frac{1}{2}?") == "Problem:\nWhat is {x} in \\frac{1}{2}?\nSolution:\n"
    assert prompt.messages("{question}")[-1]["content"] == "Problem:\n{question}\nSolution:"
    assert [message["role"] for message in prompt.messages("x")] == ["user"]


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("instruction: x", "instruction", "unknown key"),
        ("ask: Solve it", "ask", "must hold {question} once"),
        ("stop: x", "stop", "a list of texts"),
        ("shots: {a: b}", "shots", "a list was expected"),
        ("shots: [x]", "shots.1", "a mapping was expected"),
        ("shots: [{question: a}]", "shots.1.rationale", "is missing"),
        ("shots: [{question: a, rationale: 5}]", "shots.1.rationale", "a text was expected"),
        ("shots: [{question: a, rationale: '5'}]", "shots.1.rationale", "states no answer"),
        ("shots: [{question: a, rationale: b, answer: c}]", "shots.1.answer", "unknown key"),
        ("just words", None, "a mapping was expected"),
        ("a: [", None, "not YAML"),
    ],
)
def test_bad_prompts_are_named(text: str, field: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_prompt(path)
    assert problem in str(caught.value)
    assert (caught.value.file, caught.value.field) == (str(path), field)
    assert caught.value.remedy
