"""Collecting from a server on loopback: what is sent, kept, paid for and written."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.records.records import read_questions, read_rationales
from dust2gold.collect.collect import collect
from dust2gold.core.errors import InputError
from tests.dust2gold.collect.conftest import KEY, Make, asked_for, complete, samples, usage
from tests.endpoint import Endpoint, Misbehaviour
from tests.records import question

Capture = pytest.CaptureFixture[str]


def test_makes_what_prepare_makes(make: Make, server: Endpoint, capsys: Capture) -> None:
    settings = make(questions=3)
    collect(settings)
    out = Path(settings.output)
    positive, negative = ([*read_rationales(out / f"{name}.jsonl")] for name in ("positive", "negative"))
    assert [record.id for record in positive] == [f"q{q}/{k}" for q in range(3) for k in (0, 2)]
    assert [record.id for record in negative] == [f"q{q}/{k}" for q in range(3) for k in (1, 3)]
    assert positive[0].rationale == "Sample 0: 0 + 2 = \\boxed{2}"
    assert {(record.writer, record.source, record.verdict) for record in positive} == {("teacher", "nuts", "positive")}
    assert [*read_questions(out / "questions.jsonl")] == [question(number) for number in range(3)]
    counted = {"questions": 3, "samples": 12, "positive": 6, "negative": 6}
    assert json.loads((out / "summary.json").read_text()).items() >= counted.items()
    assert usage(settings).items() >= {"requests": 3, "retries": 0, "samples": 12}.items()
    assert "3 requests (0 retries)" in capsys.readouterr().out


def test_what_is_sent(make: Make, server: Endpoint) -> None:
    collect(make(questions=1, parameters={"reasoning_effort": "low"}, top_p=0.9, seed=7))
    path, headers, body, _ = server.asked[0]
    assert (path, headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert body.pop("messages") == [
        {"role": "system", "content": "Solve it. Give the answer in \\boxed{}."},
        {"role": "user", "content": "Problem: What is 2 and 3?"},
        {"role": "assistant", "content": "2 + 3 = \\boxed{5}"},
        {"role": "user", "content": "Problem: Ann has 0 nuts and finds 2. How many?"},
    ]
    assert isinstance(body.pop("seed"), int)
    sampling = {"n": 4, "temperature": 0.5, "top_p": 0.9, "max_tokens": 64}
    assert body == {"model": "gpt-test", **sampling, "reasoning_effort": "low"}

    settings = make(questions=1, api="completions", token_limit="max_completion_tokens")
    collect(settings)
    path, _, body, _ = server.asked[1]
    assert (path, body["max_completion_tokens"], "max_tokens" in body) == ("/v1/completions", 64, False)
    assert body["prompt"] == (
        "Solve it. Give the answer in \\boxed{}.\n\nProblem: What is 2 and 3?\n2 + 3 = \\boxed{5}\n\n"
        "Problem: Ann has 0 nuts and finds 2. How many?\n"
    )
    assert complete(settings, 1)


def test_the_version_of_an_api(make: Make, server: Endpoint) -> None:
    collect(settings := make(questions=1, base_url=f"{server.base_url}?api-version=2024-10-21"))
    assert server.asked[0][0] == "/v1/chat/completions?api-version=2024-10-21"
    assert complete(settings, 1)


LINKED = ("journal.jsonl", "usage.json", "collected.jsonl", "positive.jsonl", "questions.jsonl", "summary.json")


@pytest.mark.parametrize("name", LINKED)
def test_nothing_is_written_through_a_link(name: str, make: Make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    (tmp_path / "out" / name).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="is a link") if name == "journal.jsonl" else contextlib.nullcontext():
        collect(make(questions=1, journal=str(tmp_path / "out/journal.jsonl")))
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "mine"


def test_what_is_paid_is_kept(make: Make, server: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = make(questions=2)
    collect(settings)
    made = samples(settings)
    monkeypatch.delenv("OPENAI_API_KEY")
    collect(make(questions=2, concurrency=1))
    assert samples(settings) == made
    shutil.rmtree(settings.output)  # as a pipeline does whose code or settings changed
    collect(settings)
    assert samples(settings) == made
    elsewhere = make(questions=2, output=str(tmp_path / "elsewhere"), journal=str(settings.journal_path))
    collect(elsewhere)
    assert samples(elsewhere) == made
    assert len(server.asked) == 2


def test_more_questions_and_more_samples_ask_for_the_rest(make: Make, server: Endpoint) -> None:
    collect(make(questions=3, limit=1, n=2))
    collect(make(questions=2, n=3))
    assert asked_for(server) in ([2, 1, 3], [2, 3, 1])
    settings = make(questions=2, n=2)
    collect(settings)
    assert complete(settings, 2)
    assert len(server.asked) == 3


def test_other_settings_ask_anew_and_keep_what_is_paid(make: Make, server: Endpoint, tmp_path: Path) -> None:
    first = make(questions=1)
    collect(first)
    made = samples(first)
    for changes in ({"temperature": 0.7}, {"model": "gpt-other"}, {"max_tokens": 65}, {"seed": 1}):
        collect(make(questions=1, **changes))
        assert not set(samples(first)["q0"]) & set(made["q0"])
    prompt = (tmp_path / "prompt.yaml").read_text()
    (tmp_path / "prompt.yaml").write_text(prompt.replace("Solve it", "Solve this"))
    collect(first)
    (tmp_path / "prompt.yaml").write_text(prompt)
    collect(first)
    assert samples(first) == made
    assert len(server.asked) == 6


def test_the_budget_holds_whatever_is_under_way(make: Make, server: Endpoint, capsys: Capture) -> None:
    collect(make(questions=2, budget=0.01))
    assert server.asked == []  # too little for one request
    settings = make(questions=40, concurrency=8, budget=3.0)
    server.pause = 0.02
    collect(settings)
    cost = sum(
        (1000 * answer["usage"]["prompt_tokens"] + 2000 * answer["usage"]["completion_tokens"]) / 1e6
        for answer in server.billed.values()
    )
    assert usage(settings)["cost"] == pytest.approx(cost)
    most = max(json.loads(line).get("most", 0) for line in settings.journal_path.open())
    assert 3.0 - most < cost <= 3.0
    assert "the budget of $3.00 does not allow another request" in capsys.readouterr().err
    assert 0 < len(samples(settings)) == len(server.billed) < 40  # what there is can be trained on
    before = len(server.asked)
    collect(settings)  # the budget is the journal's, not the run's
    assert len(server.asked) == before
    collect(make(questions=40, budget=1000.0))
    assert complete(settings, 40)


def test_requests_without_an_answer_count_against_the_budget(make: Make, server: Endpoint) -> None:
    server.script = [Misbehaviour(drop=True)]
    collect(settings := make(questions=3, budget=1.5, concurrency=1))
    counts = usage(settings)
    assert counts["possible_cost"] > 0
    assert counts["cost"] + counts["possible_cost"] <= 1.5


def test_solutions_reach_the_training_data(make: Make, tmp_path: Path) -> None:
    lines = [{"question": f"Al has {n} and {n + 1}. Sum?", "answer": f"{n}+{n + 1}\n#### {2 * n + 1}"} for n in (3, 4)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = make(input=str(tmp_path / "gsm8k.jsonl"), format="gsm8k", source="gsm8k-train")
    collect(settings)
    assert sorted(samples(settings)) == ["gsm8k-train-00000", "gsm8k-train-00001"]
    (first, _) = read_rationales(Path(settings.output) / "solutions.jsonl")
    assert (first.gold, first.writer) == ("7", "dataset")


def test_the_key_is_nowhere(make: Make, server: Endpoint, capsys: Capture) -> None:
    """Even a server that repeats it, in an error or in a sample, does not bring it into a file or a message."""

    def repeat(answer: dict[str, Any]) -> None:
        answer["choices"][0]["message"]["content"] = f"your key is {KEY} \\boxed{{1}}"
        answer["model"] = KEY

    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    settings = make(questions=3, concurrency=1)
    refusals = [Misbehaviour(status=500, body=echo), Misbehaviour(status=401, body=echo)]
    server.script = [Misbehaviour(change=repeat), *refusals]
    with pytest.raises(InputError) as caught:
        collect(settings)
    server.script = [Misbehaviour(status=503, body=echo)] * 4
    with pytest.raises(InputError):
        collect(settings)
    collect(settings)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert KEY not in "".join(capsys.readouterr())
    files = [path for path in Path(settings.output).parent.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"out.journal.jsonl", "usage.json", "positive.jsonl", "collected.jsonl"}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert "your key is ***" in settings.journal_path.read_text()


def test_without_a_key(make: Make, monkeypatch: pytest.MonkeyPatch, server: Endpoint) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(InputError, match="the environment variable OPENAI_API_KEY is not set"):
        collect(make(questions=1))
    collect(make(questions=1, key_variable=None))
    assert KEY not in server.asked[0][1]["authorization"]
