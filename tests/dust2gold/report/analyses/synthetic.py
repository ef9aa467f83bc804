"""A finished run made of invented records: predictions of several methods, and scored samples that were voted with."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.components.grading.vote_groups import VoteGroup, make_vote_groups
from datamodules.components.records.records import Question, Rationale, Verdict, rationale_for, write_rationales
from dust2gold.report.analyses.predictions import Prediction
from dust2gold.report.analyses.votes import collect_votes
from lightning_modules.components.voting.votes import vote_accuracy

SUBJECTS = ("Algebra", "Counting & Probability", "Geometry", "Number Theory", "Precalculus")


def predictions(
    method: str, answers: Mapping[str, Sequence[float]], dataset: str = "math", level: str = "Level 1"
) -> list[Prediction]:
    """`answers`: subject -> share of correct for each of its questions."""
    return [
        Prediction(method, dataset, f"{subject}{number}", subject, correct, level)
        for subject, values in answers.items()
        for number, correct in enumerate(values)
    ]


def write_predictions(file: Path, made: Sequence[Prediction]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({**vars(p), "schema": 1, "answer": None, "gold": "1"}) + "\n" for p in made]
    file.write_text("".join(lines), encoding="utf-8")


def samples(
    question: str,
    answers: Sequence[str | None],
    scores: Sequence[float] | None = None,
    subject: str = "Algebra",
    **more: Any,
) -> list[Rationale]:
    """Samples of one question; the answer 1 is right."""
    asked = Question(question, f"What is {question}?", "1", "", subject, "Level 1", "math")
    made = []
    for k, answer in enumerate(answers):
        verdict: Verdict = "positive" if answer == "1" else "negative"
        drawn = {"logprob": -4.0 - k, "tokens": 10 + k, "seed": k, "score": None if scores is None else scores[k]}
        record = rationale_for(asked, k, f"It is {answer}.", "nce")
        made.append(replace(record, answer=answer, verdict=verdict, **{**drawn, **more}))
    return made


def vote_groups(*groups: Sequence[Rationale]) -> list[VoteGroup]:
    return make_vote_groups([sample for group in groups for sample in group])


def drawn_samples(questions: int, n: int, seed: int = 0) -> list[Rationale]:
    """Samples whose scores tell right from wrong, better on some subjects than on others."""
    numbers = random.Random(seed)
    made: list[Rationale] = []
    for place in range(questions):
        ease = numbers.uniform(0.05, 0.6)
        sharpness = 0.1 + 0.2 * (place % len(SUBJECTS))
        answers: list[str | None] = []
        scores = []
        for _ in range(n):
            right = numbers.random() < ease
            answers.append("1" if right else numbers.choice([None, "2", "2", "3", "4"]))
            scores.append(min(max(numbers.gauss(0.5 + (sharpness if right else -sharpness) / 2, 0.2), 0.01), 0.99))
        made += samples(f"q{place:03d}", answers, scores, SUBJECTS[place % len(SUBJECTS)])
    return made


def write_run(run: Path, questions: int = 60, n: int = 8, seed: int = 0, methods: Sequence[str] = ()) -> Path:
    """Writes a run with greedy methods and with votes over samples."""
    numbers = random.Random(seed)
    scored = drawn_samples(questions, n, seed)
    (run / "votes").mkdir(parents=True, exist_ok=True)
    write_rationales(run / "votes" / "scored.jsonl", scored)
    voted = make_vote_groups(scored)
    votes = collect_votes(voted)
    asked = [(group.question.id, group.question.subject) for group in voted]
    rows = [
        Prediction(method, "math", *question, share, "Level 1")
        for method, weights in votes.weights.items()
        for question, share in zip(asked, vote_accuracy(votes.answers, weights, votes.gold).tolist(), strict=True)
    ]
    write_predictions(run / "votes" / "predictions.jsonl", rows)
    for place, method in enumerate(methods or ("cot-kd", "neg", "nat", "nce")):
        chance = 0.2 + 0.03 * place
        greedy = [
            Prediction(method, "math", *question, float(numbers.random() < chance), f"Level {i % 3 + 1}")
            for i, question in enumerate(asked)
        ]
        write_predictions(run / method / "predictions.jsonl", greedy)
    return run
