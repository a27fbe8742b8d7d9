# SPDX-License-Identifier: Apache-2.0
"""Vision transformers in timm's layout: UNI's ViT-L/16 and its smaller relatives.

Architecture: A. Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; pre-norm, LayerNorm eps
1e-6, exact GELU, LayerScale (H. Touvron et al., "Going deeper with image transformers", ICCV 2021). The
output is the class token after the last norm.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

HEAD_SIZE = 64
NORM_EPS = 1e-6
TRAINING_GRID = 14
"""Side of the grid of position embeddings: 224 px in patches of 16 px."""


@dataclass(frozen=True)
class ViTShape:
    """Width, depth and patch size (px) of a vision transformer."""

    width: int
    depth: int
    patch: int = 16


LARGE_16 = ViTShape(width=1024, depth=24)
SMALL_16 = ViTShape(width=384, depth=12)


class _Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_SIZE
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, HEAD_SIZE).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        out: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out


class _LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * self.gamma


class _Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return out


class _Block(nn.Module):
    """Attention, then the two-layer network, each normed before and added after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = _Attention(width)
        self.ls1 = _LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = _Mlp(width)
        self.ls2 = _LayerScale(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        out: torch.Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return out


class _PatchEmbedding(nn.Module):
    """Cut into patches and project each: (B, 3, H, W) -> (B, width, H / patch, W / patch)."""

    def __init__(self, shape: ViTShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, shape.patch, shape.patch)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.proj(tiles)
        return out


class VisionTransformer(nn.Module):
    """(B, 3, H, W) -> (B, width), H and W multiples of the patch size."""

    def __init__(self, shape: ViTShape) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINING_GRID**2, shape.width))
        self.patch_embed = _PatchEmbedding(shape)
        self.blocks = nn.ModuleList(_Block(shape.width) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=NORM_EPS)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Encode normalised tiles."""
        patches = self.patch_embed(tiles)
        positions = _resampled(self.pos_embed, (patches.shape[-2], patches.shape[-1]))
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + positions
        for block in self.blocks:
            tokens = block(tokens)
        out: torch.Tensor = self.norm(tokens)[:, 0]
        return out


def _resampled(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resample the position embedding to another grid; the class token's own position stays as it is."""
    if grid == (TRAINING_GRID, TRAINING_GRID):
        return positions
    of_class, of_grid = positions[:, :1], positions[:, 1:]
    square = of_grid.reshape(1, TRAINING_GRID, TRAINING_GRID, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(square, grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([of_class, resized.flatten(2).transpose(1, 2)], dim=1)
