# SPDX-License-Identifier: Apache-2.0
"""From the pixels of tiles to the input of an encoder."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clam_core.errors import ParameterError


@dataclass(frozen=True)
class Normalisation:
    """The mean and standard deviation, of values in [0, 1], that an encoder was trained with."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of ImageNet's training images: what torchvision's and most pathology encoders expect."""

H_OPTIMUS = Normalisation((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
"""Of the slides that H-optimus-0 and H-optimus-1 were trained on (their model cards)."""

CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Of CLIP's training images; CONCH v1 kept it."""

TENSORFLOW_LITE = Normalisation((127 / 255,) * 3, (128 / 255,) * 3)
"""(x - 127) / 128.

What the EfficientNet-Lite models were trained with (tensorflow/tpu, efficientnet/lite).
"""


@dataclass(frozen=True)
class Framing:
    """How a tile is brought to the size of an encoder's input.

    Attributes
    ----------
    input_px
        Side of what is cut from the middle, where the tile is larger after resizing.
    resize_px
        What the short side is resized to; `input_px` where left out.
    method
        How it is resized, always by Pillow.
    """

    input_px: int
    resize_px: int | None = None
    method: Image.Resampling = Image.Resampling.BILINEAR

    def apply(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize one RGB tile (H, W, 3), then cut."""
        if self.resize_px is None:
            return resized(tile, self.input_px, self.method)
        sized = resized(tile, self.resize_px, self.method)
        top, left = (round((side - self.input_px) / 2) for side in sized.shape[:2])
        return sized[top : top + self.input_px, left : left + self.input_px]


def resized(
    tile: NDArray[np.uint8], short_side: int, method: Image.Resampling = Image.Resampling.BILINEAR
) -> NDArray[np.uint8]:
    """Resize one RGB tile (H, W, 3) so that its short side has so many pixels.

    By Pillow, with the antialiasing that Pillow applies when it shrinks; the result is bit for bit
    that of torchvision's ``Resize`` on a Pillow image.
    """
    height, width = tile.shape[:2]
    if min(height, width) == short_side:
        return tile
    scale = short_side / min(height, width)
    size = (short_side, int(height * scale)) if width <= height else (int(width * scale), short_side)
    return np.asarray(Image.fromarray(tile).resize(size, method))


def to_input(
    tiles: NDArray[np.uint8], framing: Framing, normalisation: Normalisation, device: torch.device
) -> torch.Tensor:
    """Turn tiles into a normalised batch on the device.

    Parameters
    ----------
    tiles
        RGB tiles (B, H, W, 3) of any size.
    framing
        How they are resized and cut.
    normalisation
        What the encoder was trained with.
    device
        Where the batch shall lie.

    Returns
    -------
    torch.Tensor
        float32 (B, 3, H', W'), channels last in memory.

    Raises
    ------
    ParameterError
        If the tiles are not (B, H, W, 3) of uint8.
    """
    return normalised(framed(tiles, framing), normalisation, device)


def framed(tiles: NDArray[np.uint8], framing: Framing) -> NDArray[np.uint8]:
    """Resize and cut RGB tiles (B, H, W, 3), all to one size.

    Raises
    ------
    ParameterError
        If the tiles are not (B, H, W, 3) of uint8.
    """
    if tiles.ndim != 4 or tiles.shape[-1] != 3 or tiles.dtype != np.uint8:
        raise ParameterError(
            f"Tiles must be RGB bytes of shape (B, H, W, 3); these are {tiles.dtype} of shape {tiles.shape}."
        )
    return np.stack([framing.apply(tile) for tile in tiles]) if len(tiles) else tiles


def normalised(tiles: NDArray[np.uint8], normalisation: Normalisation, device: torch.device) -> torch.Tensor:
    """Turn framed tiles (B, H, W, 3) into a batch (B, 3, H, W) of float32, channels last in memory.

    The pixels travel to the device as bytes and become floats there.
    """
    return Normaliser(normalisation, device)(torch.from_numpy(np.ascontiguousarray(tiles)).to(device))


class Normaliser:
    """Turns tiles that lie on a device into the input of an encoder.

    Parameters
    ----------
    normalisation
        What the encoder was trained with.
    device
        Where the tiles lie.
    """

    def __init__(self, normalisation: Normalisation, device: torch.device) -> None:
        self._mean = torch.tensor(normalisation.mean, dtype=torch.float32, device=device).view(3, 1, 1)
        self._std = torch.tensor(normalisation.std, dtype=torch.float32, device=device).view(3, 1, 1)

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """Turn bytes (B, H, W, 3) into float32 (B, 3, H, W), channels last in memory."""
        pixels = tiles.permute(0, 3, 1, 2).to(torch.float32)
        return pixels.div_(255).sub_(self._mean).div_(self._std)
