"""The rules of the verdict, over made-up predictions: of 100 questions each method solves the first so many."""

from pathlib import Path

import pytest

from dust2gold.report.analyses.accuracy import tabulate
from dust2gold.report.analyses.paired import compare
from dust2gold.report.analyses.verdict import add_verdict, did_negatives_help, does_nat_beat_mix, evidence_of
from dust2gold.report.analyses.verdict import what_to_take as taken
from dust2gold.report.section import Section, Study
from tests.dust2gold.report.analyses.synthetic import predictions


def study(right: dict[str, int], dataset: str = "math") -> Study:
    made = [
        each
        for method, solved in right.items()
        for each in predictions(method, {"A": [1.0] * solved + [0.0] * (100 - solved)}, dataset)
    ]
    return Study(Path(), made, tabulate(made), {})


def verdict(*runs: Study) -> list[str]:
    """The paragraphs of the section."""
    section = Section()
    add_verdict(section, evidence_of(dict(enumerate(runs))))
    return [" ".join(part.split()) for part in "\n".join(section.lines).split("\n\n")]


@pytest.mark.parametrize(
    ("right", "baseline", "answer", "said"),
    [
        ({"nat": 60, "nat-shuffled": 40, "nat-no-negatives": 61}, "nat-shuffled", "yes", "Yes."),
        ({"nat": 60, "nat-no-negatives": 40, "cot-kd-long": 61}, "nat-no-negatives", "yes", "20.00 points more"),
        ({"nat": 40, "nat-shuffled": 60}, "nat-shuffled", "no", "No, they harmed."),
        ({"nat": 41, "nat-shuffled": 40}, "nat-shuffled", "not shown", "-0.96 to +2.96, which includes 0"),
        ({"nat": 41, "nat-shuffled": 41}, "nat-shuffled", "not shown", "0.00 points more"),
        (
            {"nat": 60, "cot-kd-long": 40, "cot-kd": 9},
            "cot-kd-long",
            "not tested",
            "Not tested.** It takes the row `nat-shuf",
        ),
        ({"nat": 60, "cot-kd": 40}, "cot-kd", "not tested", "(right answers alone, without M_neg's steps), 95%"),
        ({"nat": 60, "mix": 40}, None, "not tested", "`nat` has nothing to be compared with"),
        ({"nat-shuffled": 60, "cot-kd": 40}, None, "not tested", "There is no row `nat`"),
    ],
)
def test_did_the_negatives_help(right: dict[str, int], baseline: str | None, answer: str, said: str) -> None:
    run = study(right)
    found = did_negatives_help(evidence_of({0: run}))
    assert (found.answer, found.baseline) == (answer, baseline)
    if baseline is not None:
        same = compare(run.predictions, "math", "nat", baseline)
        assert (found.points, found.margin, found.seeds) == (same.points, same.margin, 1), "the tables' numbers"
    [paragraph] = [each for each in verdict(run) if "Did the wrong answers help?" in each]
    assert said in paragraph


@pytest.mark.parametrize(
    ("right", "answer", "said"),
    [
        ({"nat": 60, "mix": 40}, "yes", "alike? Yes.**"),
        ({"nat": 40, "mix": 60}, "no", "No, MIX is better.** `nat` answers 20.00 points fewer"),
        ({"nat": 40, "mix": 39}, "not shown", "Not shown."),
        ({"nat": 40}, "not tested", "It takes the rows `nat` and `mix`"),
        ({"mix": 40}, "not tested", "It takes the rows `nat` and `mix`"),
    ],
)
def test_does_nat_beat_mix(right: dict[str, int], answer: str, said: str) -> None:
    run = study(right)
    assert does_nat_beat_mix(evidence_of({0: run})).answer == answer
    assert said in " ".join(verdict(run))


@pytest.mark.parametrize(
    ("right", "best", "said"),
    [
        ({"cot-kd": 30, "mix": 60, "nat": 40, "nce": 41}, "mix", "60.00% right, the most of `cot-kd`, `mix`, `nat`"),
        ({"cot-kd": 30, "mix": 59, "nat": 60}, "nat", "Less work, and not shown to be worse: `mix`."),
        ({"cot-kd": 30, "nce": 60, "asc": 90}, "nce", "`nce` answers 30.00 points more of the questions right than"),
        ({"nat": 50, "cot-kd-long": 50}, "cot-kd-long", "CoT KD with twice the steps"),
        ({"nat": 50}, "nat", "no other of `cot-kd`, `cot-kd-long`, `mix`, `nat`, `nce` was tested"),
        ({"neg": 50}, None, "It takes one of the rows `cot-kd`, `cot-kd-long`"),
    ],
)
def test_what_to_take(right: dict[str, int], best: str | None, said: str) -> None:
    run = study(right)
    found = taken(evidence_of({0: run}))
    assert (found and found.method) == best
    [paragraph] = [each for each in verdict(run) if "What to take" in each]
    assert said in paragraph
    assert ("Less work" in paragraph) == (best == "nat" and len(right) == 3)
    assert verdict(run).index(paragraph) == (2 if best == "mix" else 4), "MIX comes first where it is best"


def test_one_run_and_its_limits() -> None:
    said = verdict(study({"nat": 60, "mix": 40}))
    assert said[0] == "## Verdict"
    assert "math (100 test questions)" in said[1]
    assert "What one run can and cannot tell." in said[5]
    assert said[5].endswith("docs/study.md.")


def test_over_seeds() -> None:
    runs = [study({"nat": nat, "nat-shuffled": 40, "mix": 40}) for nat in (50, 52, 54)]
    found = did_negatives_help(evidence_of(dict(enumerate(runs))))
    assert (found.answer, found.points, found.seeds) == ("yes", 12, 3)
    assert found.margin == pytest.approx(4.30265 * 2 / 3**0.5, rel=1e-5)
    said = " ".join(verdict(*runs))
    assert "95% interval +7.03 to +16.97, which excludes 0; 3 seeds" in said
    assert "What 3 seeds can and cannot tell." in said
    assert "`nat`.** NAT" in said
    assert "52.00% right" in said
    runs[1:] = [study({"nat": 60}), study({"nat": 70})]
    found = did_negatives_help(evidence_of(dict(enumerate(runs))))
    assert (found.answer, found.margin, found.seeds) == ("not shown", None, 1), "one seed of the three has both rows"


def test_the_data_set_is_the_one_with_most_methods_and_its_name_is_escaped() -> None:
    both = [*study({"nat": 60, "mix": 40}, "<b>").predictions, *study({"nat": 10}, "a").predictions]
    run = Study(Path(), both, tabulate(both), {})
    assert "figures on \\<b\\> (100" in verdict(run)[1]
