"""Answers that are no samples: empty, cut off, or with their thoughts apart."""

import json
from pathlib import Path
from typing import Any

import pytest

from dust2gold.collect.collect import collect
from dust2gold.collect.settings import CollectSettings
from dust2gold.core.errors import InputError
from tests.dust2gold.collect.conftest import Make, asked_for, complete, samples, usage
from tests.endpoint import Endpoint, Misbehaviour

Capture = pytest.CaptureFixture[str]


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


def test_what_a_filter_cut_off_is_no_sample(make: Make, server: Endpoint) -> None:
    def cut(body: Any) -> None:
        body["choices"][0]["finish_reason"] = "content_filter"

    settings = make(questions=1)
    server.script = [Misbehaviour(change=cut)]
    collect(settings)
    assert [len(texts) for texts in samples(settings).values()] == [settings.sampling.n - 1]


def test_a_server_that_does_not_count_tokens(make: Make, server: Endpoint) -> None:
    settings = make(questions=1)
    server.script = [Misbehaviour(change=lambda answer: answer.pop("usage"))]
    collect(settings)
    (answer,) = server.billed.values()
    counts = usage(settings)
    assert counts["uncounted"] == 1
    for name in ("prompt_tokens", "completion_tokens"):  # from bytes, so never too few
        assert answer["usage"][name] <= counts[name] < 20 * answer["usage"][name]


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


def test_what_vllm_answers(make: Make, server: Endpoint) -> None:
    """Fields of its own, most of them null. A LoRA that it serves is asked for by its name."""

    def change(answer: dict[str, Any]) -> None:
        answer |= dict.fromkeys("service_tier system_fingerprint prompt_logprobs kv_transfer_params".split())
        for number, choice in enumerate(answer["choices"]):
            choice |= {"logprobs": None, "token_ids": None, "stop_reason": [None, 2][number % 2]}
            absent = dict.fromkeys("refusal annotations audio function_call reasoning reasoning_content".split())
            choice["message"] |= {**absent, "tool_calls": []}

    server.script = [Misbehaviour(change=change)] * 3
    settings = make(questions=3, model="nce", seed=1)
    collect(settings)
    assert complete(settings, 3)
    assert {body["model"] for _, _, body, _ in server.asked} == {"nce"}
    assert len({body["seed"] for _, _, body, _ in server.asked}) == 3


def think(text: str | None, name: str = "reasoning_content") -> Misbehaviour:
    """An answer whose first sample has its thoughts apart, and this content; None: none at all."""

    def change(answer: dict[str, Any]) -> None:
        message = answer["choices"][0]["message"]
        del message["content"]
        message.update({name: " 0 and 2. ", **({} if text is None else {"content": text})})

    return Misbehaviour(change=change)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("So \\boxed{2}.", "<think>\n0 and 2.\n</think>\n\nSo \\boxed{2}."),
        ("", "<think>\n0 and 2.\n</think>"),
        (None, "<think>\n0 and 2.\n</think>"),
    ],
)
def test_thoughts_apart_are_kept(text: str | None, joined: str, name: str, make: Make, server: Endpoint) -> None:
    def rationales(settings: CollectSettings) -> list[str]:
        lines = (Path(settings.output) / "collected.jsonl").read_text(encoding="utf-8").splitlines()
        return [record["rationale"] for record in map(json.loads, lines) if "rationale" in record]

    server.script = [think(text, name)]
    collect(settings := make(questions=1, n=2))
    answer = [text] if text else []
    assert rationales(settings)[:-1] == answer
    collect(settings := make(questions=1, n=2, think=True))
    assert rationales(settings)[0] == joined
    assert len(server.asked) == 1


def test_thoughts_count_where_the_server_does_not(make: Make, server: Endpoint) -> None:
    def change(answer: dict[str, Any]) -> None:
        answer.pop("usage")
        answer["choices"][0]["message"] = {"reasoning": "x" * 50, "content": "y"}

    server.script = [Misbehaviour(change=change)]
    collect(settings := make(questions=1, n=1))
    assert usage(settings)["completion_tokens"] == 52


def finish(reason: str | None, empty: int = 4) -> Misbehaviour:
    """An answer that ended so, the first samples of it empty."""

    def change(answer: dict[str, Any]) -> None:
        for number, choice in enumerate(answer["choices"]):
            choice["finish_reason"] = reason
            choice["message"]["content"] = "" if number < empty else "x \\boxed{2}"

    return Misbehaviour(change=change)


def test_what_is_left_out_is_counted_by_reason(make: Make, server: Endpoint, capsys: Capture) -> None:
    server.script = [finish("length", empty=3), finish("stop", empty=2), finish("abort", empty=0)]
    collect(make(questions=3, concurrency=1))
    counts = "4 not ended by the model itself (finish_reason abort), 3 empty (finish_reason length), 2 empty"
    assert f"of 12 samples 10 are left out: {counts}" in capsys.readouterr().err
    server.script = [finish(None), None]
    collect(make(questions=2, concurrency=1, model="m"), evaluate=True)
    assert "of 2 samples 1 count as wrong: 1 empty (no finish_reason)" in capsys.readouterr().err


@pytest.mark.parametrize("evaluate", [False, True])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (finish("length"), r"empty \(finish_reason length\)"),
        (finish(None), r"empty \(no finish_reason\)"),
        (think(""), r"empty but for reasoning \(finish_reason stop\)"),
    ],
)
def test_nothing_but_empty_samples_is_an_error(
    how: Misbehaviour, reason: str, evaluate: bool, make: Make, server: Endpoint
) -> None:
    server.script = [how] * 2
    settings = make(questions=2, n=1, concurrency=1)
    with pytest.raises(InputError, match=f"none of the 2 samples can be used: 2 {reason}") as caught:
        collect(settings, evaluate)
    assert "sampling.max_tokens" in str(caught.value)
    assert [path.name for path in Path(settings.output).iterdir()] == ["usage.json"]
