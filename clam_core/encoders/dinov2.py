# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of DINOv2 as Hugging Face's transformers names their tensors, brought to timm's names."""

import re

import torch

Tensors = dict[str, torch.Tensor]

_RENAMES = (
    (re.compile(r"^(dinov2|model)\."), ""),
    (re.compile(r"^embeddings\.cls_token$"), "cls_token"),
    (re.compile(r"^embeddings\.position_embeddings$"), "pos_embed"),
    (re.compile(r"^embeddings\.patch_embeddings\.projection\."), "patch_embed.proj."),
    (re.compile(r"^encoder\.layer\."), "blocks."),
    (re.compile(r"\.attention\.output\.dense\."), ".attn.proj."),
    (re.compile(r"\.attention\.attention\.(query|key|value)\."), r".attn.\1."),
    (re.compile(r"\.layer_scale([12])\.lambda1$"), r".ls\1.gamma"),
    (re.compile(r"^layernorm\."), "norm."),
)

PARTS = ("query", "key", "value")

UNUSED = "embeddings.mask_token"
"""Of the training alone."""


def in_timm_names(tensors: Tensors) -> Tensors:
    """Rename a state dict, and join queries, keys and values; what is named as in timm stays as it is."""
    renamed = {_renamed(key): value for key, value in tensors.items() if not key.endswith(UNUSED)}
    joined = {key: value for key, value in renamed.items() if not _is_part(key)}
    for key in renamed:
        if ".attn.query." in key:
            parts = [renamed.get(key.replace("query", part)) for part in PARTS]
            joined[key.replace("query", "qkv")] = torch.cat([part for part in parts if part is not None])
    return joined


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def _is_part(key: str) -> bool:
    return any(f".attn.{part}." in key for part in PARTS)
