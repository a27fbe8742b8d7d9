# SPDX-License-Identifier: Apache-2.0
"""A slide in memory and a model without weights, for tests of the way between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.encoders import Encoder, Precision
from clam_core.models import SlidePrediction
from clam_core.models.prediction import prediction_from
from clam_core.quality import Quality
from clam_core.slides import Level, Pixels, SlideIdentity
from clam_core.slides.slide import pyramid

GLASS = (244, 244, 244)
TISSUE = (200, 90, 160)


class ArraySlide:
    """A slide whose level 0 is an array; each further level halves it."""

    def __init__(self, pixels: Pixels, levels: int = 1, mpp: tuple[float, float] | None = (0.5, 0.5)) -> None:
        self._pixels = [pixels]
        for _ in range(levels - 1):
            height, width = self._pixels[-1].shape[:2]
            smaller = cv2.resize(self._pixels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            self._pixels.append(np.asarray(smaller, dtype=np.uint8))
        self.mpp = mpp
        self.identity = SlideIdentity(name="in-memory")
        self.largest_read = 0
        self.closed = False

    @property
    def levels(self) -> tuple[Level, ...]:
        return pyramid([(pixels.shape[1], pixels.shape[0]) for pixels in self._pixels])

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        assert not self.closed, "read after close"
        self.largest_read = max(self.largest_read, size[0] * size[1])
        pixels = self._pixels[level]
        ratio = self.levels[level].downsample
        left, top = int(location[0] / ratio[0]), int(location[1] / ratio[1])
        region = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
        x0, y0 = max(left, 0), max(top, 0)
        part = pixels[y0 : max(top + size[1], 0), x0 : max(left + size[0], 0)]
        region[y0 - top : y0 - top + part.shape[0], x0 - left : x0 - left + part.shape[1]] = part
        return region

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def blank(width: int, height: int) -> Pixels:
    """Return a picture of empty glass."""
    return np.full((height, width, 3), GLASS, dtype=np.uint8)


def glass_with_tissue(width: int = 2048, height: int = 1536) -> Pixels:
    """Return a picture of one piece of tissue with a texture, the same every time."""
    picture = blank(width, height)
    cv2.ellipse(picture, (width // 2, height // 2), (width // 3, height // 3), 0, 0, 360, TISSUE, cv2.FILLED)
    tissue = (picture == TISSUE).all(axis=2)
    noise = np.random.default_rng(7).integers(-40, 40, (height // 64 + 1, width // 64 + 1))
    noise = np.kron(noise, np.ones((64, 64), dtype=np.int64))[:height, :width]
    picture[tissue] = np.clip(picture[tissue] + noise[tissue][:, None], 0, 255)
    return picture


class MeanColourEncoder:
    """Three values a tile: its mean colour."""

    name = "mean-colour"
    dim = 3
    input_px = 256
    sha256 = "0" * 64
    numerics = "float64, rounded"
    precision: Precision = Precision.FLOAT32

    def __init__(self) -> None:
        self.batches: list[int] = []

    def frame(self, tile: Pixels) -> Pixels:
        return tile

    def encode(self, tiles: Pixels) -> NDArray[np.float32]:
        return self.encode_framed(tiles)

    def encode_framed(self, tiles: Pixels) -> NDArray[np.float32]:
        self.batches.append(len(tiles))
        means: NDArray[np.float32] = (tiles.astype(np.float64).mean(axis=(1, 2)) / 255).astype(np.float32)
        return means


class RednessPredictor:
    """Attends to red tiles; class 1 where their mean is red."""

    def predict(self, features: np.ndarray) -> SlidePrediction:
        red = torch.from_numpy(features[:, 0].astype(np.float64))
        logit = red.mean() * 4 - 2
        return prediction_from(torch.stack([-logit, logit]), red[None] * 10, torch.zeros(1, 2))


@dataclass(frozen=True)
class FakeModel:
    """What an analysis asks of a model, without weights."""

    name: str = "redness"
    version: str = "1"
    classes: tuple[str, ...] = ("pale", "red")
    patch_px: int = 128
    mpp: float = 0.5
    tissue_preset: str = "bwh_biopsy"
    sha256: str = "1" * 64
    intended_use: str = "Tests."
    use: str = "demonstration"
    encoder: Encoder | None = None
    predictor: RednessPredictor | None = None
    quality: Quality = field(default_factory=lambda: Quality("ok"))

    def load_encoder(self, device: torch.device, weights: object, precision: object) -> Encoder:
        return self.encoder or MeanColourEncoder()

    def load_aggregator(self, device: torch.device) -> RednessPredictor:
        return self.predictor or RednessPredictor()

    def assess(self, features: np.ndarray, tissue_mm2: float | None, patch_count: int) -> Quality:
        return self.quality
