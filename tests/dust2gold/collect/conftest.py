"""An endpoint, questions and settings, and what collecting has made of them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datamodules.components.records.records import read_rationales
from dust2gold.collect import collector
from dust2gold.collect.settings import CollectSettings, Endpoint, Prices, TeacherSampling
from tests import endpoint
from tests.records import write_asked

KEY = "sk-planted-0123456789abcdef"
PROMPT = """\
instructions: Solve it. Give the answer in \\boxed{}.
ask: "Problem: {question}"
shots:
  - question: What is 2 and 3?
    rationale: 2 + 3 = \\boxed{5}
"""

Make = Callable[..., CollectSettings]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """Plants an API key in the environment, and no other of openai's variables; waits are milliseconds."""
    for name, seconds in {"_FIRST_WAIT": 0.01, "_LONGEST_WAIT": 0.05, "_PATIENCE": 30.0}.items():
        monkeypatch.setattr(collector, name, seconds)
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_LOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@pytest.fixture
def server() -> Iterator[endpoint.Endpoint]:
    """An endpoint that answers well unless its script says otherwise."""
    with endpoint.serving() as running:
        yield running


@pytest.fixture
def make(server: endpoint.Endpoint, tmp_path: Path) -> Make:
    """Makes settings for a few questions; keywords change those of `CollectSettings` and of its parts."""
    (tmp_path / "prompt.yaml").write_text(PROMPT, encoding="utf-8")

    def settings(questions: int = 3, **changes: Any) -> CollectSettings:
        def part(kind: Any, **defaults: Any) -> Any:
            names = [name for name in kind.__dataclass_fields__ if name in changes]
            return kind(**{**defaults, **{name: changes.pop(name) for name in names}})

        given = {
            "input": write_asked(tmp_path / "questions.jsonl", questions),
            "output": str(tmp_path / "out"),
            "prompt": str(tmp_path / "prompt.yaml"),
            "endpoint": part(
                Endpoint, model="gpt-test", base_url=server.base_url, concurrency=4, timeout=5.0, retries=3
            ),
            "sampling": part(TeacherSampling, n=4, max_tokens=64),
            "prices": part(Prices, prompt=1000.0, completion=2000.0),
        }
        return CollectSettings(**{**given, **changes})

    return settings


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


def asked_for(server: endpoint.Endpoint) -> list[int]:
    """How many samples each request asked for."""
    return [body.get("n", 1) for _, _, body, _ in server.asked]
