# SPDX-License-Identifier: Apache-2.0
"""Vision transformers in timm's layout: UNI, UNI2-h, Virchow, H-optimus, Phikon-v2, GigaPath, CONCH's trunk.

Architecture: A. Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021; pre-norm, LayerNorm eps
1e-6, exact GELU or a gated SiLU (N. Shazeer, "GLU variants improve transformer", 2020), LayerScale
(H. Touvron et al., "Going deeper with image transformers", ICCV 2021), registers (T. Darcet et al., "Vision
transformers need registers", ICLR 2024). Neither timm nor torchvision is needed.
"""

from dataclasses import dataclass
from math import isqrt

import torch
from torch import nn
from torch.nn import functional

NORM_EPS = 1e-6
TRAINING_PX = 224
"""Side of the pictures that nearly all of these were trained on."""


@dataclass(frozen=True)
class ViTShape:
    """What distinguishes one vision transformer from another.

    Attributes
    ----------
    width
        Values a token.
    depth
        Blocks.
    heads
        Of the attention.
    patch
        Side of a patch in px.
    hidden
        Values between the two layers of a block's network.
    gated
        Whether half as many values again gate these: SiLU(a) * b instead of GELU(a).
    registers
        Tokens beside that of the class which belong to no patch.
    placed
        How many of the class token and the registers have position embeddings.
    with_mean
        Whether the output is the class token followed by the mean of the patches' tokens.
    training_px
        Side of the pictures it was trained on: it fixes the number of position embeddings.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int = 16
    gated: bool = False
    registers: int = 0
    placed: int = 1
    with_mean: bool = False
    training_px: int = TRAINING_PX


SMALL_16 = ViTShape(width=384, depth=12, heads=6, hidden=1536)
BASE_16_AT_448 = ViTShape(width=768, depth=12, heads=12, hidden=3072, training_px=448)
LARGE_16 = ViTShape(width=1024, depth=24, heads=16, hidden=4096)
GIANT_16 = ViTShape(width=1536, depth=40, heads=24, hidden=4096, gated=True)
GIANT_14_REG4 = ViTShape(
    width=1536, depth=40, heads=24, hidden=4096, patch=14, gated=True, registers=4, placed=0
)
UNI2_H = ViTShape(width=1536, depth=24, heads=24, hidden=4096, patch=14, gated=True, registers=8, placed=0)
VIRCHOW = ViTShape(width=1280, depth=32, heads=16, hidden=3416, patch=14, gated=True, with_mean=True)
VIRCHOW2 = ViTShape(
    width=1280, depth=32, heads=16, hidden=3416, patch=14, gated=True, registers=4, placed=5, with_mean=True
)


class _Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, width = tokens.shape
        split = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        qkv = split.permute(2, 0, 3, 1, 4)
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
    """Two linear layers with an exact GELU, or a gate, between them."""

    def __init__(self, shape: ViTShape) -> None:
        super().__init__()
        self.gated = shape.gated
        self.fc1 = nn.Linear(shape.width, shape.hidden * (2 if shape.gated else 1))
        self.fc2 = nn.Linear(shape.hidden, shape.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        between = self.fc1(tokens)
        if self.gated:
            gate, value = between.chunk(2, dim=-1)
            between = functional.silu(gate) * value
        else:
            between = functional.gelu(between)
        out: torch.Tensor = self.fc2(between)
        return out


class _Block(nn.Module):
    """Attention, then the two-layer network, each normed before and added after."""

    def __init__(self, shape: ViTShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self.attn = _Attention(shape.width, shape.heads)
        self.ls1 = _LayerScale(shape.width)
        self.norm2 = nn.LayerNorm(shape.width, eps=NORM_EPS)
        self.mlp = _Mlp(shape)
        self.ls2 = _LayerScale(shape.width)

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
    """(B, 3, H, W) -> (B, width), or (B, 2 width) with the mean; H and W multiples of the patch size."""

    def __init__(self, shape: ViTShape) -> None:
        super().__init__()
        self.shape = shape
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        if shape.registers:
            self.reg_token = nn.Parameter(torch.zeros(1, shape.registers, shape.width))
        places = shape.placed + (shape.training_px // shape.patch) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, places, shape.width))
        self.patch_embed = _PatchEmbedding(shape)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, eps=NORM_EPS)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Encode normalised tiles."""
        tokens = self.tokens(tiles)
        of_class: torch.Tensor = tokens[:, 0]
        if not self.shape.with_mean:
            return of_class
        return torch.cat([of_class, tokens[:, 1 + self.shape.registers :].mean(dim=1)], dim=-1)

    def tokens(self, tiles: torch.Tensor) -> torch.Tensor:
        """Return the normed tokens (B, N, width): of the class, of registers, of patches."""
        tokens = self._tokens(self.patch_embed(tiles))
        for block in self.blocks:
            tokens = block(tokens)
        normed: torch.Tensor = self.norm(tokens)
        return normed

    def _tokens(self, patches: torch.Tensor) -> torch.Tensor:
        """Class token, registers and patches (B, width, rows, columns), with their positions."""
        places = _resampled(self.pos_embed, self.shape.placed, (patches.shape[-2], patches.shape[-1]))
        own = torch.cat([self.cls_token, self.reg_token], dim=1) if self.shape.registers else self.cls_token
        placed = self.shape.placed
        own = torch.cat([own[:, :placed] + places[:, :placed], own[:, placed:]], dim=1)
        of_patches = patches.flatten(2).transpose(1, 2) + places[:, placed:]
        return torch.cat([own.expand(len(patches), -1, -1), of_patches], dim=1)


def _resampled(positions: torch.Tensor, placed: int, grid: tuple[int, int]) -> torch.Tensor:
    """Resample the position embedding to another grid; those of class and registers stay as they are."""
    own, of_grid = positions[:, :placed], positions[:, placed:]
    side = isqrt(of_grid.shape[1])
    if grid == (side, side):
        return positions
    square = of_grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(square, grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([own, resized.flatten(2).transpose(1, 2)], dim=1)
