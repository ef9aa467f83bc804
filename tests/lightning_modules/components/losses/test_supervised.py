"""Cross-entropy is held against the paper in test_distillation.py; here, its share of the right rationales."""

import torch

from lightning_modules.components.losses.supervised import cross_entropy, positive_cross_entropy
from lightning_modules.components.losses.targets import find_targets
from tests.lightning_modules import paper
from tests.lightning_modules.components.losses.cases import make_batch, random_logprobs

LENGTHS, VERDICTS = [3, 2, 4, 1, 2], [True, False, False, True, False]


def test_positive_cross_entropy_is_that_of_the_right_rationales_alone() -> None:
    logprobs = random_logprobs(sum(LENGTHS))
    right = torch.cat([part for part, verdict in zip(logprobs.split(LENGTHS), VERDICTS, strict=True) if verdict])
    mixed, alone = find_targets(make_batch(LENGTHS, VERDICTS)), find_targets(make_batch([3, 1], [True, True]))
    paper.assert_exact(positive_cross_entropy(logprobs, mixed), cross_entropy(right, alone))
