# SPDX-License-Identifier: Apache-2.0
"""Untrained aggregators by name: what ``clam-core train`` can train."""

from collections.abc import Callable
from dataclasses import dataclass

from clam_core.models.abmil import Abmil
from clam_core.models.clam import ATTENTION_WIDTH, Clam, ClamShape
from clam_core.models.mil import MilFc
from clam_core.models.prediction import AggregatorNetwork


@dataclass(frozen=True)
class Blueprint:
    """What decides an untrained aggregator.

    Attributes
    ----------
    kind
        A key of `UNTRAINED`.
    embed_dim
        Values a patch.
    classes
        Number of classes.
    size
        ``small`` or ``big``: the width of the attention, where there is one.
    dropout
        Of CLAM; the others have none.
    """

    kind: str
    embed_dim: int
    classes: int
    size: str = "small"
    dropout: float = 0.0

    def network(self) -> AggregatorNetwork:
        """Make the network, its weights drawn from torch's generator."""
        return UNTRAINED[self.kind](self)


def _clam(plan: Blueprint, *, multi_branch: bool) -> Clam:
    width = ATTENTION_WIDTH[plan.size]
    shape = ClamShape(plan.embed_dim, plan.classes, multi_branch=multi_branch, attention_width=width)
    return Clam(shape, dropout=plan.dropout)


UNTRAINED: dict[str, Callable[[Blueprint], AggregatorNetwork]] = {
    "clam_sb": lambda plan: _clam(plan, multi_branch=False),
    "clam_mb": lambda plan: _clam(plan, multi_branch=True),
    "mil_fc": lambda plan: MilFc(plan.embed_dim, plan.classes, any_class=plan.classes > 2),
    "abmil": lambda plan: Abmil(plan.embed_dim, ATTENTION_WIDTH[plan.size], plan.classes),
}
"""Every aggregator that can be trained; for more than two classes ``mil_fc`` is the reference's MIL_fc_mc."""
