import torch

from lightning_modules.components.losses.targets import IGNORE, Denominators, at_targets, find_targets, sample_sums


def test_targets_are_shifted_by_one() -> None:
    labels = torch.tensor([[5, 4, IGNORE, 3], [IGNORE, IGNORE, 2, IGNORE]])  # the 5 is predicted by nothing
    targets = find_targets({"labels": labels, "positive": torch.tensor([True, False])})
    assert targets.tokens.tolist() == [4, 3, 2]
    assert targets.sample.tolist() == [0, 0, 1]
    assert targets.positions.tolist() == [0, 2, 5]
    assert (targets.samples, targets.all, targets.positives, targets.negatives) == (2, (3, 2), (2, 1), (1, 1))
    logits = torch.arange(2 * 4).reshape(2, 4, 1).expand(2, 4, 7).double()
    assert at_targets(logits, targets)[:, 0].tolist() == [0, 2, 5]


def test_no_sample_is_lost_that_has_no_target() -> None:
    labels, segments = torch.full((1, 4), IGNORE), torch.tensor([[0, 0, -1, -1]])
    targets = find_targets({"labels": labels, "segments": segments, "ids": ["a", "b"]})
    assert targets.samples == 2
    assert targets.all == Denominators(1.0, 2.0)  # never 0
    assert sample_sums(torch.zeros(0), targets).tolist() == [0, 0]
