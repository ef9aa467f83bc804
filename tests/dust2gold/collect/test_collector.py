"""A server on loopback that fails, refuses and misbehaves in every way a server can."""

import itertools
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dust2gold.collect import collector
from dust2gold.collect.client import RefusedError
from dust2gold.collect.collect import collect
from dust2gold.core.errors import InputError
from tests.dust2gold.collect.conftest import KEY, Make, complete, samples, usage
from tests.endpoint import Endpoint, Misbehaviour, serving

Capture = pytest.CaptureFixture[str]


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


IN_A_BODY = {
    "429": ({"error": {"code": 429, "message": "Rate limit reached"}}, "HTTP 200 with error 429: Rate limit reached"),
    "503": ({"error": {"status": "503", "message": "busy"}, "choices": None}, "HTTP 200 with error 503: busy"),
    "of a choice": (
        {"choices": [{"error": {"code": 502, "message": "upstream"}}]},
        "HTTP 200 with error 502: upstream",
    ),
    "a text": ({"error": "model overloaded"}, "HTTP 200 with an error: model overloaded"),
    "detail": ({"detail": "no worker"}, "HTTP 200 with an error: no worker"),
    "message": ({"object": "error", "message": "slow", "code": 500}, "HTTP 200 with error 500: slow"),
    "unknown": ({"hello": [1]}, "unusable answer (KeyError('choices')): {\"hello\": [1]}"),
    "HTML": ("<html><title>502 Bad\nGateway</title>" + "x" * 999, "<html><title>502 Bad Gateway</title>xxx"),
}


@pytest.mark.parametrize("name", IN_A_BODY)
def test_an_error_within_http_200_is_shown_and_tried_again(
    name: str, make: Make, server: Endpoint, capsys: Capture
) -> None:
    body, said = IN_A_BODY[name]
    how = Misbehaviour(body=body if isinstance(body, str) else json.dumps(body))
    server.script = [how] * 4
    with pytest.raises(InputError, match="1 of 1 questions lack samples"):
        collect(make(questions=1))
    err = capsys.readouterr().err
    assert said in err
    assert "x" * 301 not in err
    server.script = [how]
    collect(settings := make(questions=1))
    assert complete(settings, 1)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        ({"code": 400, "message": "context"}, RefusedError, "HTTP 200 with error 400: context"),
        ({"code": 401, "message": KEY}, InputError, "environment variable OPENAI_API_KEY"),
        ({"code": "insufficient_quota", "message": "quota"}, InputError, "no credit"),
    ],
)
def test_a_refusal_within_http_200(
    error: dict[str, Any], kind: type[InputError], says: str, make: Make, server: Endpoint
) -> None:
    server.script = [Misbehaviour(body=json.dumps({"error": error}))] * 4
    with pytest.raises(kind, match=says if kind is InputError else "refuses") as caught:
        collect(make(questions=4, concurrency=1))
    assert says in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(server.asked) == (4 if kind is RefusedError else 1)
