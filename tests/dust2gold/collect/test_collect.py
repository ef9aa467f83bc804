"""Collecting from a server on loopback that misbehaves in every way a server can."""

import contextlib
import itertools
import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.records.records import read_questions, read_rationales
from dust2gold.collect import collector
from dust2gold.collect.collect import collect
from dust2gold.collect.settings import CollectSettings
from dust2gold.core.errors import InputError
from tests.dust2gold.collect.conftest import KEY, Make
from tests.endpoint import Endpoint, Misbehaviour, serving
from tests.records import question

Capture = pytest.CaptureFixture[str]


def usage(settings: CollectSettings) -> Any:
    return json.loads((Path(settings.output) / "usage.json").read_text(encoding="utf-8"))


def samples(settings: CollectSettings) -> dict[str, list[str]]:
    """The texts that training gets, by question."""
    texts: dict[str, list[str]] = {}
    for name in ("positive", "negative"):
        for record in read_rationales(Path(settings.output) / f"{name}.jsonl"):
            texts.setdefault(record.question_id, []).append(record.rationale)
    return texts


def complete(settings: CollectSettings, questions: int = 3) -> bool:
    """Whether each question has its samples, each once."""
    counts = {name: (len(texts), len(set(texts))) for name, texts in samples(settings).items()}
    return counts == {f"q{number}": (settings.sampling.n,) * 2 for number in range(questions)}


def asked_for(server: Endpoint) -> list[int]:
    """How many samples each request asked for."""
    return [body.get("n", 1) for _, _, body, _ in server.asked]


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


FAILURES = {
    "429": Misbehaviour(status=429),
    "408": Misbehaviour(status=408),
    "500": Misbehaviour(status=500),
    "503": Misbehaviour(status=503, body="<html>overloaded</html>", headers={"Content-Type": "text/html"}),
    "slow": Misbehaviour(slow=2.0),
    "dropped": Misbehaviour(drop=True),
    "malformed": Misbehaviour(body='{"choices": [{"mess'),
    "no JSON": Misbehaviour(body="hello", headers={"Content-Type": "text/plain"}),
    "a list": Misbehaviour(body="[]"),
    "no choices": Misbehaviour(change=lambda answer: answer.pop("choices")),
    "choices are a text": Misbehaviour(change=lambda answer: answer.update(choices="text")),
    "empty choices": Misbehaviour(change=lambda answer: answer["choices"].clear()),
    "no content": Misbehaviour(change=lambda answer: answer["choices"][0]["message"].pop("content")),
    "content is a number": Misbehaviour(change=lambda answer: answer["choices"][0]["message"].update(content=3)),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_tried_again(name: str, make: Make, server: Endpoint) -> None:
    settings = make(questions=2, timeout=1.0 if name == "slow" else 30.0)
    server.script = [FAILURES[name], None, FAILURES[name]]
    collect(settings)
    assert complete(settings, 2)
    counts = usage(settings)
    assert counts.items() >= {"requests": 4, "retries": 2, "failed": 2, "answered": 2}.items()
    names = Counter(headers["idempotency-key"] for _, headers, _, _ in server.asked)
    assert sorted(names.values()) in ([1, 3], [2, 2])  # the same name until there is an answer
    assert (counts["possible_cost"] > 0) is (name not in ("429", "408", "500", "503"))


def test_waits_double_up_to_the_longest(make: Make, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "_FIRST_WAIT", 0.2)
    monkeypatch.setattr(collector, "_LONGEST_WAIT", 0.3)
    failure, asks = Misbehaviour(status=500), Misbehaviour(status=429, headers={"Retry-After": "0.9"})
    server.script = [failure, failure, asks, *[failure] * 4]
    collect(make(questions=1, retries=7))
    times = [at for _, _, _, at in server.asked]
    waits = [after - before for before, after in itertools.pairwise(times)]
    # Half of each wait is chance.
    assert all(wait >= least for wait, least in zip(waits, (0.1, 0.15, 0.9, *[0.15] * 4), strict=True))
    assert sum(waits) < 6  # doubled once more and again, the last one alone were longer


def test_a_question_that_keeps_failing_is_left_for_the_next_run(make: Make, server: Endpoint, capsys: Capture) -> None:
    settings = make(questions=2, concurrency=1)
    server.script = [Misbehaviour(status=500)] * 4
    with pytest.raises(InputError, match="1 of 2 questions lack samples") as caught:
        collect(settings)
    assert "run the same command again" in str(caught.value)
    assert "question 'q0': HTTP 500: status 500 (4 times)" in capsys.readouterr().err
    assert {name: len(texts) for name, texts in samples(settings).items()} == {"q1": 4}
    server.script = [Misbehaviour(status=429, headers={"Retry-After": "3600"})]
    began = time.monotonic()
    with pytest.raises(InputError, match="1 of 2 questions"):
        collect(settings)
    assert time.monotonic() - began < 5
    collect(settings)
    assert complete(settings, 2)
    assert len(server.asked) == 4 + 1 + 1 + 1


def test_fewer_choices_than_asked_for(make: Make, server: Endpoint) -> None:
    settings = make(questions=1, n=5)
    server.script = [Misbehaviour(at_most=2), Misbehaviour(at_most=1)]
    collect(settings)
    assert asked_for(server) == [5, 3, 2]
    assert complete(settings, 1)
    assert len({headers["idempotency-key"] for _, headers, _, _ in server.asked}) == 3
    settings = make(questions=1, choices_per_request=1, seed=1)
    collect(settings)
    assert not any("n" in body for _, _, body, _ in server.asked[3:])
    assert len({body["seed"] for _, _, body, _ in server.asked[3:]}) == 4
    assert complete(settings, 1)


def test_a_server_that_does_not_count_tokens(make: Make, server: Endpoint) -> None:
    settings = make(questions=1)
    server.script = [Misbehaviour(change=lambda answer: answer.pop("usage"))]
    collect(settings)
    (answer,) = server.billed.values()
    counts = usage(settings)
    assert counts["uncounted"] == 1
    for name in ("prompt_tokens", "completion_tokens"):  # from bytes, so never too few
        assert answer["usage"][name] <= counts[name] < 20 * answer["usage"][name]


def test_truncated_and_empty_samples_are_paid_but_not_trained_on(make: Make, server: Endpoint) -> None:
    def spoil(answer: dict[str, Any]) -> None:
        answer["choices"][0]["finish_reason"] = "length"
        answer["choices"][1]["message"]["content"] = None
        answer["choices"][2]["finish_reason"] = None

    server.script = [Misbehaviour(change=spoil)]
    settings = make(questions=1)
    for _ in range(2):
        collect(settings)
        assert [text[:8] for text in samples(settings)["q0"]] == ["Sample 2", "Sample 3"]
    assert len(server.asked) == 1


QUOTA = json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (Misbehaviour(status=401), "environment variable OPENAI_API_KEY"),
        (Misbehaviour(status=403), "another model"),
        (Misbehaviour(status=404), "endpoint.base_url"),
        (Misbehaviour(status=429, body=QUOTA), "no credit"),
    ],
)
def test_what_no_repetition_mends_stops_at_once(how: Misbehaviour, says: str, make: Make, server: Endpoint) -> None:
    settings = make(questions=8, concurrency=2)
    server.pause = 0.1
    server.script = [how]
    with pytest.raises(InputError, match=r"the endpoint refuses question 'q[01]'") as caught:
        collect(settings)
    assert says in str(caught.value)
    assert caught.value.remedy
    assert len(server.asked) == 2  # what was under way arrives and is kept
    assert usage(settings)["samples"] == 4
    collect(settings)
    assert complete(settings, 8)
    assert len(server.asked) == 2 + 7
    assert server.most_at_once == 2


TOO_LONG = '{"error": {"message": "maximum context length"}}'


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_question_is_left_out_and_named(
    status: int, make: Make, server: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make(questions=8, concurrency=2)
    server.script = [None, Misbehaviour(status=status, body=TOO_LONG)]
    collect(settings)
    err = capsys.readouterr().err
    assert "maximum context length" in err
    assert "warning: the endpoint refuses 1 of 8 questions: q" in err
    assert len(server.asked) == 8
    assert len(samples(settings)) == 7
    server.script = [Misbehaviour(status=status)]
    collect(settings)  # of what is missing all is refused, but not of all
    collect(settings)
    assert complete(settings, 8)
    assert len(server.asked) == 10


@pytest.mark.parametrize("questions", [2, 20])
def test_an_endpoint_that_refuses_all_is_an_error(questions: int, make: Make, server: Endpoint) -> None:
    server.script = [Misbehaviour(status=400)] * questions
    with pytest.raises(InputError, match="refuses"):
        collect(make(questions=questions, concurrency=2))
    assert len(server.asked) <= 5


def test_a_refused_question_of_a_test_is_wrong(make: Make, server: Endpoint) -> None:
    settings = make(questions=4, concurrency=1)
    server.script = [None, Misbehaviour(status=400)]
    collect(settings, evaluate=True)
    rows = [json.loads(line) for line in (Path(settings.output) / "predictions.jsonl").read_text().splitlines()]
    assert [row["rationale"] == "" for row in rows] == [False, True, False, False]
    assert not rows[1]["correct"]


def test_what_a_filter_cut_off_is_no_sample(make: Make, server: Endpoint) -> None:
    def cut(body: Any) -> None:
        body["choices"][0]["finish_reason"] = "content_filter"

    settings = make(questions=1)
    server.script = [Misbehaviour(change=cut)]
    collect(settings)
    assert [len(texts) for texts in samples(settings).values()] == [settings.sampling.n - 1]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, make: Make, server: Endpoint) -> None:
    with serving() as other:
        server.script = [Misbehaviour(status=status, headers={"Location": f"{other.base_url}/{KEY}"})]
        with pytest.raises(InputError, match=f"sends HTTP {status} on to {other.base_url}") as caught:
            collect(settings := make(questions=1))
        assert other.asked == []
    assert len(server.asked) == 1
    assert caught.value.field == "endpoint.base_url"
    assert KEY not in str(caught.value)
    assert usage(settings).items() >= {"samples": 0, "failed": 1, "possible_cost": 0}.items()


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


def test_no_connection_and_an_input_that_would_be_overwritten(make: Make, tmp_path: Path) -> None:
    settings = make(questions=1, base_url="http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(InputError, match="1 of 1 questions"):
        collect(settings)
    assert usage(settings)["possible_cost"] == 0  # nothing reached a server
    with pytest.raises(InputError, match="lies in the output directory"):
        collect(make(output=str(tmp_path)))


def test_an_endpoint_that_is_down_is_not_asked_forever(make: Make, server: Endpoint) -> None:
    settings = make(questions=20, retries=1, concurrency=4)
    server.script = [Misbehaviour(status=503)] * 1000
    with pytest.raises(InputError, match="4 questions one after the other got no answer; the last: HTTP 503"):
        collect(settings)
    assert len(server.asked) <= 2 * 4 + 4
    server.script = []
    collect(settings)
    assert complete(settings, 20)


def test_a_hostile_server_breaks_neither_terminal_nor_journal(make: Make, server: Endpoint, capsys: Capture) -> None:
    def spoil(answer: dict[str, Any]) -> None:
        answer["model"] = answer["choices"][0]["finish_reason"] = "\ud800"
        answer["usage"] = {"prompt_tokens": 10**300, "completion_tokens": -1}
        answer["choices"][1]["message"]["content"] = "\x1b[2J\u2028 \\boxed{2}"

    escape = json.dumps({"error": {"message": "\x1b[31mred\ud800"}})
    server.script = [Misbehaviour(status=500, body=escape)] * 4
    settings = make(questions=1)
    with pytest.raises(InputError):
        collect(settings)
    server.script = [Misbehaviour(body="[" * 100_000), Misbehaviour(change=spoil)]
    collect(settings)
    assert complete(settings, 1)
    printed = "".join(capsys.readouterr())
    assert "HTTP 500: [31mred?" in printed
    assert "\x1b[2J" not in printed
    assert usage(settings)["uncounted"] == 1


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
