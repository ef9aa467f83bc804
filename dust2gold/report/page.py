"""The report as one page: the tables sortable, the figures drawn, every case, α_neg and β token by token.

It needs nothing but itself: numbers and texts stand in it as JSON, which its script (`assets/`) shows. That puts text
of others in as text alone, and a browser runs no script but the one whose hash the page names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from dust2gold.core.jsonl import read_json_lines
from dust2gold.report.analyses.predictions import prediction_files
from dust2gold.report.analyses.votes import collect_votes
from dust2gold.report.section import Study, reading
from lightning_modules.components.voting.votes import winning_classes

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("elements", "markdown", "figures", "cases", "tokens", "tabs")  # one script, in this order
_TOKEN_VALUES = {"gate": ("gates.jsonl", "alpha_negative"), "beta": ("betas.jsonl", "token_betas")}


def page(
    markdown: str,
    results: Sequence[Mapping[str, Any]],
    numbers: Mapping[str, Any],
    figures: Mapping[str, tuple[str, str]],
    study: Study | None,
) -> str:
    """The page of report.md, results.json and analyses.json; of a `study` also its cases and token values."""
    data = {
        "report": markdown,
        "results": results,
        "analyses": numbers,
        "figures": figures,
        "cases": [] if study is None else list(_cases(study)),
        "tokens": [] if study is None else list(_token_values(study)),
    }
    style = (_ASSETS / "page.css").read_text(encoding="utf-8")
    script = "\n".join((_ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    # As \u003c no text can end the element that holds it.
    embedded = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    hashes = {"style_hash": _hash(style), "script_hash": _hash(script)}
    template = Template((_ASSETS / "page.html").read_text(encoding="utf-8"))
    return template.substitute(style=style, script=script, data=embedded, **hashes)


def _hash(text: str) -> str:
    """What a content security policy names a script or a style by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _cases(study: Study) -> Iterator[dict[str, Any]]:
    """Each question that was voted on: its answers as first written, whom each vote elects, and its samples.

    A sample is [rationale, number of its answer or −1, log-probability a token or null, score or null].
    """
    correct: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for each in study.predictions:
        correct[each.dataset, each.question_id][each.method] = each.correct
    for dataset, groups in study.vote_groups.items():
        votes = collect_votes(groups)
        winners = {method: winning_classes(votes.answers, weights) for method, weights in votes.weights.items()}
        for place, group in enumerate(groups):
            asked, nothing = group.question, [None] * len(group.samples)
            texts = [sample.rationale for sample in group.samples]
            columns = texts, group.answers, group.logprob_mean or nothing, group.score or nothing
            yield {
                **{"dataset": dataset, "id": asked.id, "subject": asked.subject, "level": asked.level},
                **{"question": asked.question, "gold": asked.gold, "answers": group.texts, "right": group.gold},
                "elected": {method: found[place].nonzero()[:, 0].tolist() for method, found in winners.items()},
                "correct": correct[dataset, asked.id],
                "samples": list(zip(*columns, strict=True)),
            }


def _token_values(study: Study) -> Iterator[dict[str, Any]]:
    """What stands in gates.jsonl and betas.jsonl beside the predictions, in one form."""
    correct = {(each.method, each.dataset, each.question_id): each.correct for each in study.predictions}
    for directory in dict.fromkeys(file.parent for file in prediction_files(study.run)):
        for kind, (name, field) in _TOKEN_VALUES.items():
            if not (file := directory / name).is_file():
                continue
            for _, row in read_json_lines(file):
                with reading(file):
                    pairs = [(str(token), float(value)) for token, value in zip(row["tokens"], row[field], strict=True)]
                    key = (directory.name, row.get("dataset", ""), row.get("question_id", ""))
                    yield {
                        **{"kind": kind, "method": directory.name, "id": row["id"] if kind == "beta" else key[2]},
                        **{
                            "question": row["prompt"] if kind == "beta" else row["question"],
                            "gold": row.get("gold", ""),
                        },
                        **{"beta": float(row["beta"]) if kind == "beta" else None, "correct": correct.get(key)},
                        **{"tokens": [token for token, _ in pairs], "values": [value for _, value in pairs]},
                    }
