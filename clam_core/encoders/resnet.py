# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 up to its third stage: 1,024 values a tile, CLAM's classic encoder.

Architecture: K. He et al., "Deep residual learning for image recognition", CVPR 2016, with the stride on
the 3x3 convolution (torchvision's variant, whose names of layers the state dict carries).
"""

import torch
from torch import nn
from torch.nn import functional

EXPANSION = 4
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2))
"""Blocks, width and stride of layer1, layer2 and layer3."""


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, added to the (projected) input."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        width_out = width * EXPANSION
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        self.downsample = _projection(width_in, width_out, stride)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(inputs)), inplace=True)
        out = functional.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out)) + self.downsample(inputs)
        return functional.relu(out, inplace=True)


def _projection(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    if stride == 1 and width_in == width_out:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))


class TruncatedResNet50(nn.Module):
    """(B, 3, H, W) -> (B, 1024), mean pooled after layer3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width = 64
        for number, (blocks, stage_width, stride) in enumerate(STAGES, start=1):
            self.add_module(f"layer{number}", _stage(width, blocks, stage_width, stride))
            width = stage_width * EXPANSION

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Encode normalised tiles."""
        out = functional.relu(self.bn1(self.conv1(tiles)), inplace=True)
        out = functional.max_pool2d(out, 3, 2, padding=1)
        for number in range(1, len(STAGES) + 1):
            out = self.get_submodule(f"layer{number}")(out)
        return out.mean(dim=(2, 3))


def _stage(width_in: int, blocks: int, width: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(width_in, width, stride)
    rest = [_Bottleneck(width * EXPANSION, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def without_last_stage(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop layer4 and the classifier, which the truncated network does not have."""
    return {key: value for key, value in tensors.items() if not key.startswith(("layer4.", "fc."))}
