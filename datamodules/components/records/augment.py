"""Self-augmentation: the student's own right samples join D_pos (docs/method.md, stage 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from datamodules.components.records.records import Rationale


def augmented(positive: Iterable[Rationale], samples: Iterable[Rationale]) -> Iterator[Rationale]:
    """D_pos, then the right samples that repeat no rationale of the same question, in their order."""
    seen: set[tuple[str, str]] = set()
    for rationale in positive:
        seen.add((rationale.question_id, rationale.rationale))
        yield rationale
    for sample in samples:
        key = (sample.question_id, sample.rationale)
        if sample.verdict == "positive" and key not in seen:
            seen.add(key)
            yield sample
