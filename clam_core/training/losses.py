# SPDX-License-Identifier: Apache-2.0
"""The losses of CLAM: of the bag, and of the patches that attention ranks highest and lowest."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch.nn import functional

from clam_core.models.clam import BagOutput, Clam

SMOOTH_RATIO = 1000.0
"""Where the two largest scores differ by more than tau * ln of this, smoothing changes nothing."""


class LossKind(Enum):
    """Cross-entropy, or the smooth top-1 support vector machine."""

    CE = "ce"
    SVM = "svm"


def smooth_top1_svm(
    scores: torch.Tensor, labels: torch.Tensor, tau: float = 1.0, alpha: float = 1.0
) -> torch.Tensor:
    """Return the smooth top-1 SVM loss.

    L. Berrada, A. Zisserman, M. P. Kumar, "Smooth loss functions for deep top-k classification", ICLR 2018.

    Parameters
    ----------
    scores
        (B, C).
    labels
        (B,), integers.
    tau
        Temperature of the smoothing.
    alpha
        Margin.

    Returns
    -------
    torch.Tensor
        The mean over the rows, a scalar.
    """
    true = scores.gather(1, labels[:, None])[:, 0]
    margins = torch.full_like(scores, alpha).scatter(1, labels[:, None], 0.0)
    raised = scores + margins
    smooth = tau * torch.logsumexp(raised / tau, dim=1) - true
    hard = raised.amax(dim=1) - true
    top = scores.topk(2, dim=1).values
    clear = (top[:, 0] - top[:, 1]) >= tau * math.log(SMOOTH_RATIO)
    return torch.where(clear, hard, smooth).mean()


def loss_function(kind: LossKind) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the function (scores (B, C), labels (B,)) -> scalar of a kind of loss."""
    return functional.cross_entropy if kind is LossKind.CE else smooth_top1_svm


@dataclass(frozen=True)
class InstanceTargets:
    """What the instance branch looked at: the loss, the targets, and what was predicted, class by class."""

    loss: torch.Tensor
    targets: torch.Tensor
    predictions: torch.Tensor


def instance_branch(
    network: Clam, out: BagOutput, label: int, kind: LossKind, *, k_sample: int = 8, subtyping: bool = False
) -> InstanceTargets:
    """Ask the patches that attention ranks highest and lowest which class they show.

    Parameters
    ----------
    network
        Gives the classifiers of the patches.
    out
        What it said of the bag.
    label
        Class of the bag.
    kind
        Loss.
    k_sample
        Patches on each side; a bag with fewer uses what it has.
    subtyping
        Whether the highest patches of every other class count as negatives.

    Returns
    -------
    InstanceTargets
        The losses of the classes added up, with `subtyping` divided by their number.
    """
    attention = torch.softmax(out.attention_raw, dim=1)
    losses, targets, predictions = [], [], []
    for index, classify in enumerate(network.instance_classifiers):
        row = attention[index if len(attention) > 1 else 0]
        if index == label:
            picked, target = _both_sides(row, k_sample)
        elif subtyping:
            picked = row.topk(min(k_sample, len(row))).indices
            target = torch.zeros(len(picked), dtype=torch.long, device=row.device)
        else:
            continue
        logits = classify(out.hidden[picked])
        losses.append(loss_function(kind)(logits, target))
        targets.append(target)
        predictions.append(logits.argmax(dim=1))
    total = torch.stack(losses).sum()
    if subtyping:
        total = total / len(network.instance_classifiers)
    return InstanceTargets(total, torch.cat(targets), torch.cat(predictions))


def _both_sides(attention: torch.Tensor, k_sample: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pick the highest patches (target 1), then the lowest (target 0)."""
    count = min(k_sample, len(attention))
    picked = torch.cat([attention.topk(count).indices, (-attention).topk(count).indices])
    target = torch.cat([torch.ones(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)])
    return picked, target.to(attention.device)
