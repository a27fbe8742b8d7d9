# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning of the last blocks of EfficientNet-Lite0 on microscope fields: a trial, cheap enough for a CPU.

The blocks that stay as they are run once for every patch; what they say is kept and the rest is trained on
it. The linear head comes from a logistic regression first and is tuned together with the blocks then
(A. Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution", ICLR
2022). Batch norms are folded and therefore stay as ImageNet left them.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from clam_core.encoders import ENCODERS
from clam_core.encoders.efficientnet_lite import EfficientNetLite0
from clam_core.encoders.fold import fold_batch_norms
from clam_core.encoders.transforms import Framing, to_input
from clam_core.errors import EncoderWeightsError
from clam_core.tensors import read_tensors
from clam_core.training.baseline import Logistic, fit_logistic
from clam_core.training.engine import sampling_order
from clam_core.training.fields import FieldFeatures

Maps = NDArray[np.float32]

FROZEN_BLOCKS = 14
"""Of sixteen; what they leave behind is 192 channels of 7 x 7."""

BATCH = 16
"""Patches a pass through the frozen blocks."""


@dataclass(frozen=True)
class FineTuning:
    """How the last blocks are tuned: fixed beforehand, not picked by what came out.

    Attributes
    ----------
    epochs
        Passes over the fields.
    fields, patches
        Fields a step, and patches drawn from each.
    block_rate, head_rate
        Learning rates, which fall to 0 along a cosine.
    weight_decay
        Of AdamW.
    seed
        Of order and patches.
    """

    epochs: int = 4
    fields: int = 8
    patches: int = 2
    block_rate: float = 1e-4
    head_rate: float = 1e-4
    weight_decay: float = 0.05
    seed: int = 1


class FrozenBlocks:
    """The part of the encoder that stays as it is; stands in for an encoder where fields are encoded."""

    name = f"efficientnet-lite0-until-block-{FROZEN_BLOCKS}"
    dim = 192 * 7 * 7
    input_px = 224

    def __init__(self) -> None:
        entry = ENCODERS["efficientnet-lite0"]
        path = entry.find()
        if path is None:
            raise EncoderWeightsError(f"The weights of {entry.name} are not installed: {entry.how_to_get}.")
        network = EfficientNetLite0().eval()
        network.load_state_dict(dict(entry.select(read_tensors(path))))
        self.network = fold_batch_norms(network.requires_grad_(requires_grad=False))
        self.sha256 = f"{entry.sha256}-{FROZEN_BLOCKS}"
        self._normalisation = entry.normalisation

    def encode(self, tiles: NDArray[np.uint8]) -> Maps:
        """Return what the last frozen block says of RGB tiles (B, H, W, 3), as (B, 192 * 7 * 7)."""
        parts = [self._encode(tiles[start : start + BATCH]) for start in range(0, len(tiles), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def _encode(self, tiles: NDArray[np.uint8]) -> Maps:
        batch = to_input(tiles, Framing(self.input_px), self._normalisation, torch.device("cpu"))
        stem, norm, blocks = (self.network.get_submodule(name) for name in ("_conv_stem", "_bn0", "_blocks"))
        with torch.inference_mode():
            out = functional.relu6(norm(stem(batch)))
            for block in list(blocks.children())[:FROZEN_BLOCKS]:
                out = block(out)
        return out.flatten(1).numpy().copy()

    def tunable(self) -> "TunableBlocks":
        """Return a copy of the rest, which may be trained."""
        blocks = list(self.network.get_submodule("_blocks").children())[FROZEN_BLOCKS:]
        head = [self.network.get_submodule(name) for name in ("_conv_head", "_bn1")]
        return TunableBlocks(copy.deepcopy(nn.Sequential(*blocks, *head)).requires_grad_())


class TunableBlocks(nn.Module):
    """(B, 192 * 7 * 7) -> (B, 1280)."""

    def __init__(self, blocks: nn.Sequential) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Encode what the frozen blocks said."""
        out: torch.Tensor = self.blocks(maps.reshape(-1, 192, 7, 7))
        return functional.relu6(out).mean(dim=(2, 3))

    def encode(self, maps: Maps) -> NDArray[np.float32]:
        """Encode without a gradient, in small batches."""
        with torch.inference_mode():
            parts = [self(torch.from_numpy(part)) for part in np.array_split(maps, -(-len(maps) // 64))]
        return torch.cat(parts).numpy()


def fine_tune(
    fields: Sequence[FieldFeatures], frozen: FrozenBlocks, settings: FineTuning | None = None
) -> Callable[[Maps], float]:
    """Tune the last blocks on fields whose views are what the frozen blocks said.

    Returns
    -------
    callable
        Gives the log-odds of class 1 of the patches (N, 192 * 7 * 7) of one bag.
    """
    chosen = settings or FineTuning()
    blocks = frozen.tunable()
    head = _probe(fields, blocks)
    _tune(fields, blocks, head, chosen)

    def judge(maps: Maps) -> float:
        with torch.inference_mode():
            return float(head(torch.from_numpy(blocks.encode(maps)).mean(dim=0)))

    return judge


class _Head(nn.Module):
    """A logistic regression (B, D) -> (B,) that can be trained on."""

    def __init__(self, start: Logistic) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(start.mean).float())
        self.register_buffer("deviation", torch.from_numpy(start.deviation).float())
        self.weight = nn.Parameter(torch.from_numpy(start.weight).float())
        self.bias = nn.Parameter(torch.tensor(start.bias))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        scaled = (vectors - self.get_buffer("mean")) / self.get_buffer("deviation")
        return scaled @ self.weight + self.bias


def _probe(fields: Sequence[FieldFeatures], blocks: TunableBlocks) -> _Head:
    views = [view for item in fields for view in item.views]
    labels = [item.field.label for item in fields for _ in item.views]
    means = np.stack([blocks.encode(view).mean(axis=0) for view in views])
    return _Head(fit_logistic(means, np.array(labels)))


def _tune(fields: Sequence[FieldFeatures], blocks: TunableBlocks, head: _Head, settings: FineTuning) -> None:
    rng = np.random.default_rng(settings.seed)
    labels = [item.field.label for item in fields]
    optimiser = torch.optim.AdamW(
        [
            {"params": blocks.parameters(), "lr": settings.block_rate},
            {"params": head.parameters(), "lr": settings.head_rate},
        ],
        weight_decay=settings.weight_decay,
    )
    steps = settings.epochs * -(-len(fields) // settings.fields)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(settings.epochs):
        order = sampling_order(labels, rng, weighted=True)
        for start in range(0, len(order), settings.fields):
            drawn = [fields[index] for index in order[start : start + settings.fields]]
            loss = _loss(drawn, blocks, head, settings.patches, rng)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _loss(
    drawn: Sequence[FieldFeatures],
    blocks: TunableBlocks,
    head: _Head,
    patches: int,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Cross entropy of fields, each seen by a few patches of one of its views."""
    seen = []
    for item in drawn:
        view = item.views[int(rng.integers(len(item.views)))]
        seen.append(view[rng.integers(len(view), size=patches)])
    vectors = blocks(torch.from_numpy(np.concatenate(seen))).reshape(len(drawn), patches, -1).mean(dim=1)
    targets = torch.tensor([float(item.field.label) for item in drawn])
    return functional.binary_cross_entropy_with_logits(head(vectors), targets)
