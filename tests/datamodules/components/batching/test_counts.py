import torch

from datamodules.components.batching.counts import count_targets, step_counts


def test_counts_by_hand() -> None:
    counts = count_targets([3, 4, 5], [True, False, True])
    assert counts.dtype == torch.float64
    assert counts.tolist() == [  # of each sample: all, right, wrong as (target tokens, samples)
        [[3, 1], [3, 1], [0, 0]],
        [[4, 1], [0, 0], [4, 1]],
        [[5, 1], [5, 1], [0, 0]],
    ]
    assert step_counts(counts, batches=1) == {"all": (12, 3), "positive": (8, 2), "negative": (4, 1)}
    assert step_counts(counts, batches=2) == {"all": (6, 1.5), "positive": (4, 1), "negative": (2, 0.5)}
