import pytest

from dust2gold.report.analyses.overlap import overlaps
from tests.dust2gold.report.analyses.synthetic import predictions


def test_table_1_by_hand() -> None:
    made = [
        *predictions("cot-kd", {"Algebra": [1, 1, 0, 1], "Geometry": [0, 0]}),
        *predictions("neg", {"Algebra": [1, 0, 0, 1], "Geometry": [1, 0]}),
    ]
    found = overlaps(made)
    assert [(o.subject, o.n, o.solved_first, o.solved_second, o.both) for o in found] == [
        ("Algebra", 4, 3, 2, 2),
        ("Geometry", 2, 0, 1, 0),
        ("all", 6, 3, 3, 2),
    ]
    assert [o.by_chance for o in found] == pytest.approx([3 * 2 / 4, 0, 3 * 3 / 6])
    assert [o.iou for o in found] == pytest.approx([2 / 3, 0, 2 / 4])


def test_the_papers_overall_row() -> None:
    """253 and 166 right answers, 29 in both: an IoU of .074; by chance it would be 8.4 of 5,000."""
    ours = [1.0] * 253 + [0.0] * 4747
    theirs = [1.0] * 29 + [0.0] * 224 + [1.0] * 137 + [0.0] * 4610
    row = overlaps([*predictions("cot-kd", {"": ours}), *predictions("neg", {"": theirs})])[-1]
    assert (row.solved_first, row.solved_second, row.both) == (253, 166, 29)
    assert (round(row.iou or 0, 3), round(row.by_chance, 1)) == (0.074, 8.4)


def test_only_shared_questions_and_whole_answers_count() -> None:
    made = [
        *predictions("nat", {"A": [1, 1, 1]}),
        *predictions("neg", {"A": [1, 0.5]}),
        *predictions("neg", {"A": [1, 1, 1]}, dataset="other"),
    ]
    rows = overlaps(made)
    assert {(row.dataset, row.first, row.second) for row in rows} == {("math", "nat", "neg")}
    assert (rows[-1].n, rows[-1].solved_first, rows[-1].solved_second, rows[-1].both) == (2, 2, 1, 1)
    assert overlaps([*predictions("cot-kd", {"": [0]}), *predictions("neg", {"": [0]})])[0].iou is None
