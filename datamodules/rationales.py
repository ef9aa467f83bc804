"""Rationales to train a decoder on, questions to test it with and to sample for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.components.batching.counts import count_targets
from datamodules.components.batching.plan import Batching, RowBatches, choose_batching
from datamodules.components.batching.sampler import Batch, EvaluationSampler, TrainingSampler
from datamodules.components.encoding.tokenization import context_of, encode, pad_with_mask
from datamodules.components.grading.grader import StringGrader, grader_for
from datamodules.components.limits import AnswerRoom
