from hashlib import sha256

from dust2gold.report.analyses.cases import Case, find_cases
from tests.dust2gold.report.analyses.synthetic import samples, vote_groups

LIFTED, SUNK = "SC fails, ASC succeeds", "SC succeeds, ASC fails"


def ids(cases: list[Case]) -> list[str]:
    return [case.group.question.id for case in cases]


def test_both_kinds_and_no_ties() -> None:
    answers = {"lifted": "212", "sunk": "121", "tied": "12", "both right": "1", "both wrong": "2"}
    scores = (0.1, 0.9, 0.3)
    found = find_cases(vote_groups(*(samples(name, list(drawn), scores) for name, drawn in answers.items())))
    assert found is not None
    assert {kind: ids(cases) for kind, cases in found.items()} == {LIFTED: ["lifted"], SUNK: ["sunk"]}
    first, second = found[LIFTED][0].answers
    assert (first.answer, first.votes, first.right, first.taken_by) == ("2", 2, False, ["sc"])
    assert (second.answer, second.votes, second.right, second.taken_by) == ("1", 1, True, ["asc"])
    assert (first.score, first.best_score, first.best_rationale) == (0.4, 0.3, "It is 2.")


def test_the_order_is_that_of_the_hashes() -> None:
    names = [f"q{i}" for i in range(12)]
    found = find_cases(vote_groups(*(samples(name, ["2", "1", "2"], [0.1, 0.9, 0.3]) for name in names)))
    assert found is not None
    assert ids(found[LIFTED]) == sorted(names, key=lambda name: sha256(name.encode()).hexdigest()) != names


def test_a_tie_of_sc_names_all_it_takes() -> None:
    found = find_cases(vote_groups(samples("a", ["2", "3", "2", "3", "1"], [0.1, 0.1, 0.1, 0.1, 0.9])))
    assert found is not None
    assert {a.answer: a.taken_by for a in found[LIFTED][0].answers} == {"2": ["sc"], "3": ["sc"], "1": ["asc"]}


def test_needs_scores() -> None:
    assert find_cases(vote_groups(samples("a", ["1"]))) is None
