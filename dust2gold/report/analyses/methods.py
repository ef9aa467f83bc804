"""The rows of the report: what each method is, in the order in which tables show them."""

from __future__ import annotations

import re
from collections.abc import Iterable

METHODS = {
    "fine-tune": "trained on the data set's own solutions, greedy (the paper's Fine-tune)",
    "cot-kd": "trained on the teacher's right rationales (D_pos), greedy: the baseline",
    "cot-kd-long": "CoT KD with twice the steps: as many as M_neg and NAT together",
    "cot-kd-wide": "cot-kd-long with as many trained parameters as NAT",
    "mix": "trained on right and wrong rationales alike (D_pos and D_neg)",
    "cl": "CoT KD with a contrastive term: a question's right rationales near, its wrong ones far",
    "nt": "negative training: lowers the likelihood of wrong rationales",
    "ul": "unlikelihood training on wrong rationales",
    "self-augmentation": "CoT KD on D_pos and the right samples of CoT KD itself",
    "kd": "self-refinement: NCE with β switched off",
    "neg": "M_neg, trained on the wrong rationales (D_neg), greedy",
    "nat": "M_NAT, right rationales with the frozen M_neg integrated (stage 1), greedy",
    "neg-shuffled": "M_neg's placebo, trained on rationales called wrong by shuffled verdicts",
    "nat-from-mix": "NAT whose positive half starts from MIX",
    "nat-shuffled": "NAT's placebo: its M_neg learned from shuffled verdicts",
    "nce": "M_NCE, one plain LoRA distilled from M_NAT, calibrated by M_neg (stage 2), greedy",
    "nce-from-mix": "a plain LoRA distilled from MIX, calibrated by M_neg",
    "nce-permuted": "NCE's placebo: each sample weighted by another one's β",
    "nce-token": "NCE with one β per token",
    "nat-no-negatives": "NAT whose frozen half is CoT KD's LoRA instead of M_neg",
    "nat-single": "NAT without the dual structure: one LoRA, trained on D_neg and then on D_pos",
    "nat-sum": "NAT without the attention: both halves are added",
    "nat-unscaled": "NAT with the gate as the paper writes it: its logits are not divided by √d_k",
    "nat-delta": "NAT whose units see the LoRAs' own outputs, without the base's",
    "nat-semantic": "NAT on data graded by value instead of by text",
    "redi": "REDI: reinforced on right, penalised on wrong rationales, normalised by length",
    "dpo": "direct preference optimisation on pairs of right and wrong rationales",
    "kto": "Kahneman-Tversky optimisation on right and wrong rationales, unpaired",
    "glow": "MIX with each rationale weighted by its gain since the epoch before",
    "opd": "on-policy distillation: NAT corrects the student's own samples, token by token",
    "sc": "self-consistency: majority vote over the samples",
    "ws": "vote weighted by the model's own length-normalised probability",
    "asc": "adaptive self-consistency: vote weighted by M_rank's score s (stage 3)",
    "asc-permuted": "asc's placebo: M_rank's scores exchanged among a question's samples",
    "asc-1+s": "vote weighted by 1 + s",
    "asc-1+2s": "vote weighted by 1 + 2s",
}
"""Name in predictions.jsonl → what it is. The order of the report's rows."""

BASELINE = "cot-kd"
"""What the paper measures its stages against: a LoRA on the right rationales alone."""

COMPARISONS = (("nce", "kd"), ("nce", "nat"), ("nat", "nat-no-negatives"), ("ws", "sc"), ("asc", "sc"))
"""What the paper claims beyond its baseline: a method and what it is better than."""

_FEWER = re.compile(r"nat-negatives-(\d{1,2})")
_ORDER = {name: place for place, name in enumerate(METHODS)}


def share_of_negatives(method: str) -> int | None:
    """The percentage of D_neg that M_neg saw, as `nat-negatives-25` says it; None for a method not named so."""
    found = _FEWER.fullmatch(method)
    return int(found[1]) if found else None


def descriptions(methods: Iterable[str]) -> list[str]:
    """A line of a list for each method, but not for one we do not know, such as an LLM evaluated by `collect`."""
    lines = []
    for method in sorted(set(methods), key=method_order):
        share = share_of_negatives(method)
        if share is not None or method in METHODS:
            about = METHODS.get(method) or f"NAT whose M_neg saw {share}% of the wrong rationales"
            lines.append(f"- {method}: {about}")
    return lines


def method_order(method: str) -> tuple[int, int, str]:
    """Sorts methods as `METHODS` lists them, all others after them by name."""
    share = share_of_negatives(method)
    if share is not None:
        return _ORDER["nat-delta"], share, method
    return (_ORDER[method], 0, "") if method in _ORDER else (len(_ORDER), 0, method)
