# SPDX-License-Identifier: Apache-2.0
"""CONCH's picture side: a ViT-B/16 whose tokens are pooled by one learnt question.

Architecture: M. Y. Lu et al., "A visual-language foundation model for computational pathology", Nature
Medicine 30 (2024), after J. Yu et al., "CoCa: Contrastive captioners are image-text foundation models", TMLR
2022. The pooler computes what open_clip's ``AttentionalPooler`` computes, and its tensors have the names of
that. The vector is what stands before the projection into the space shared with text: the one that a bag
model is trained on.
"""

import re

import torch
from torch import nn

from clam_core.encoders.vit import BASE_16_AT_448, VisionTransformer, ViTShape
from clam_core.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

POOLED = 512
HEADS = 8

_FIRST_QKV = re.compile(r"^(?P<place>.*)blocks\.0\.attn\.qkv\.weight$")
_QUERY = re.compile(r"^(?P<place>.*)query$")
_NORM = re.compile(r"^(?P<place>.*)weight$")


class AttentionalPooler(nn.Module):
    """(B, N, D) -> (B, width): one learnt question to the tokens, each side normed before the attention."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, width))
        self.attn = nn.MultiheadAttention(width, heads, kdim=context, vdim=context, batch_first=True)
        self.ln_q = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(context)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pool the tokens of pictures."""
        context = self.ln_k(tokens)
        question = self.ln_q(self.query).expand(len(tokens), 1, -1)
        answer: torch.Tensor = self.attn(question, context, context, need_weights=False)[0]
        return answer[:, 0]


class PooledTransformer(nn.Module):
    """(B, 3, H, W) -> (B, 512): trunk, pooler, LayerNorm."""

    def __init__(self, shape: ViTShape = BASE_16_AT_448, width: int = POOLED, heads: int = HEADS) -> None:
        super().__init__()
        self.trunk = VisionTransformer(shape)
        self.pooler = AttentionalPooler(width, shape.width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """Encode normalised tiles."""
        out: torch.Tensor = self.norm(self.pooler(self.trunk.tokens(tiles)))
        return out


def picture_side(tensors: Tensors) -> Tensors:
    """Take trunk, pooler and the norm after it from a checkpoint that holds text and captions as well.

    They are told by what they are, not by the names of the modules that hold them: the trunk by its joint
    projection, the pooler by asking one question (that of the captions asks 256).

    Raises
    ------
    CheckpointError
        If one of them is not there, or not there once; the sentence names the tensors.
    """
    trunk = _only("the projection of a vision transformer", _places(tensors, _FIRST_QKV))
    queries = [place for place in _places(tensors, _QUERY) if len(tensors[f"{place}query"]) == 1]
    pooler = _only("a pooler with one query", queries)
    norm = _norm_after(tensors, pooler)
    found = _under(tensors, trunk, "trunk.") | _under(tensors, pooler, "pooler.")
    return _with_layer_scale(found) | _under(tensors, norm, "norm.")


def _places(tensors: Tensors, pattern: re.Pattern[str]) -> list[str]:
    matches = [pattern.match(key) for key in tensors]
    return [match["place"] for match in matches if match is not None]


def _only(what: str, places: list[str]) -> str:
    if len(places) == 1:
        return places[0]
    if not places:
        raise CheckpointError(f"the file has no tensor that is {what}, as the picture side of CONCH has")
    raise CheckpointError(f"the file has more than one tensor that is {what}: under {', '.join(places)}")


def _norm_after(tensors: Tensors, pooler: str) -> str:
    """Find the norm of the pooler's width beside it whose name ends as the pooler's.

    Where there is no other pooler that it could belong to, any one will do.
    """
    parent, _, name = pooler.rstrip(".").rpartition(".")
    width = tensors[f"{pooler}query"].shape[1:]
    beside = [
        place
        for place in _places(tensors, _NORM)
        if place.rstrip(".").rpartition(".")[0] == parent and tensors[f"{place}weight"].shape == width
    ]
    if len(_places(tensors, _QUERY)) > 1:
        ending = name.rpartition("_")[2]
        beside = [place for place in beside if place.rstrip(".").rpartition("_")[2] == ending]
    return _only(f"a norm of {width[0]} values beside {pooler}query", beside)


def _under(tensors: Tensors, place: str, renamed: str) -> Tensors:
    return {
        renamed + key.removeprefix(place): value for key, value in tensors.items() if key.startswith(place)
    }


def _with_layer_scale(tensors: Tensors) -> Tensors:
    """Scale by one where a trunk was trained without LayerScale."""
    scales = {
        key.replace("norm", "ls").replace("weight", "gamma"): torch.ones_like(value)
        for key, value in tensors.items()
        if re.search(r"^trunk\.blocks\.\d+\.norm[12]\.weight$", key)
    }
    return scales | tensors
