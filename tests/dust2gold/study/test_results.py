"""Records to rows and contrasts: pairing within a seed, levels, seeds that are missing, what cannot be compared."""

import dataclasses
from typing import Any

import pytest

from dust2gold.core.errors import InputError
from dust2gold.study.records import ArmRecord, Made
from dust2gold.study.results import answers_of, contrasts, method_rows

MADE = Made({}, (), 1.0, {}, {}, None, None, "2026-11-27")


def record(seed: int, questions: str = "q", **correct: Any) -> ArmRecord:
    return ArmRecord("cell", seed, "-".join(correct), f"{questions}{seed}", "1123", correct, MADE)


def test_rows_are_means_over_seeds_also_by_level() -> None:
    (row,) = method_rows(answers_of([record(0, nat="1100"), record(1, nat=[0.5, 0, 1, 0.5])]))
    assert (row.method, row.accuracy.seeds, row.accuracy.mean, row.accuracy.deviation) == ("nat", 2, 0.5, 0)
    assert row.levels == {"1": (1 + 0.25) / 2, "2": 0.5, "3": 0.25}


def test_questions_without_a_level_count_in_the_mean_alone() -> None:
    (row,) = method_rows(answers_of([dataclasses.replace(record(0, nat="1100"), levels="1--1")]))
    assert (row.accuracy.mean, row.levels) == (0.5, {"1": 0.5})


def test_contrasts_use_the_seeds_that_have_both() -> None:
    answers = answers_of([record(0, nat="1110"), record(0, mix="1000"), record(2, nat="1111"), record(3, mix="0000")])
    (found,) = contrasts(answers, [("nat", "mix")], [])
    assert found.seeds == (0,)
    assert found.difference is not None
    assert found.difference.by_seed == (0.5,)


def test_methods_are_paired_by_question() -> None:
    """The same accuracies: alike on each question there is nothing to doubt, on different ones there is."""
    alike = answers_of([record(k, nat="1100", mix="1100") for k in (0, 1)])
    apart = answers_of([record(k, nat="1100", mix="0011") for k in (0, 1)])
    errors = [contrasts(answers, [("nat", "mix")], [])[0].difference for answers in (alike, apart)]
    assert [error is not None and error.error > 0 for error in errors] == [False, True]


def test_only_primary_contrasts_are_corrected_and_all_announced_ones_count() -> None:
    answers = answers_of([record(k, nat="1110", mix="1000", ul="1100") for k in range(3)])
    one, missing, hint = contrasts(answers, [("nat", "mix"), ("nat", "nt")], [("nat", "ul")])
    assert one.difference is not None
    assert one.corrected == pytest.approx(2 * one.difference.p)
    assert (missing.difference, missing.corrected, missing.seeds) == (None, None, ())
    assert (hint.primary, hint.corrected) == (False, None)
    assert hint.difference is not None


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="nat and mix answered different questions with seed 0"):
        contrasts(answers_of([record(0, nat="1111"), record(0, questions="p", mix="1111")]), [("nat", "mix")], [])
    with pytest.raises(InputError, match="'nat' answers in two arms of cell 'cell', seed 0"):
        answers_of([record(0, nat="1111"), record(0, nat="1111")])
