# SPDX-License-Identifier: Apache-2.0
"""Heatmaps pixel for pixel as the reference CLAM draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clam_core.heatmap.colormaps import colors
from clam_core.heatmap.scores import percentiles
from clam_core.patches import ContourRule, PatchGrid
from clam_core.slides import Level, Pixels, Slide
from clam_core.tissue import Piece, fill_pieces

Pair = tuple[int, int]


@dataclass(frozen=True)
class HeatmapStyle:
    """How the reference draws.

    Parameters
    ----------
    level
        Level of the slide that lies under the colours.
    patch
        (width, height) of a patch, level-0 pixels.
    overlap
        Of neighbouring patches, as a fraction; it only enters the blur.
    to_percentiles
        Rank the scores first; else they are percentiles already, 0 to 100.
    cmap
        One of `clam_core.heatmap.colormaps.TABLES`.
    alpha
        Weight of the colours against the slide, 0 to 1.
    blank_canvas
        White instead of the slide.
    segment
        Colour only tissue.
    blur
        Smooth the scores, and then the colours.
    threshold
        None: colours follow the scores; else patches of at least this score (0 to 1) count 1, others 0, and
        only where one counts 1 there is colour. Negative: one divided by the number of patches.
    region
        Top-left and bottom-right corner in level-0 pixels; None: the whole slide.
    custom_downsample
        Shrinks the finished picture.
    max_size
        Longest side of the finished picture; None: no limit.
    """

    level: int
    patch: Pair
    overlap: float = 0.0
    to_percentiles: bool = False
    cmap: str = "coolwarm"
    alpha: float = 0.4
    blank_canvas: bool = False
    segment: bool = True
    blur: bool = False
    threshold: float | None = None
    region: tuple[Pair, Pair] | None = None
    custom_downsample: int = 1
    max_size: int | None = None


def heatmap_grid(
    patch_px: int,
    level: Level,
    *,
    overlap: float = 0.0,
    center_shift: bool = True,
    custom_downsample: int = 1,
) -> PatchGrid:
    """Return the reference's grid for heatmaps: stricter than its patching, all four points must be tissue.

    Parameters
    ----------
    patch_px
        Side of a patch in pixels of the level.
    level
        The level patches are read from.
    overlap
        Of neighbours, as a fraction of a patch.
    center_shift
        False tests the centre alone.
    custom_downsample
        Patches are read so many times larger and shrunk.
    """
    ratio = [custom_downsample * int(side) for side in level.downsample]
    step = int(patch_px * (1 - overlap))
    return PatchGrid(
        patch=(patch_px * ratio[0], patch_px * ratio[1]),
        step=(step * ratio[0], step * ratio[1]),
        rule=ContourRule.FOUR_PT_HARD,
        shift=_shift(overlap) if center_shift else 0.0,
    )


def _shift(overlap: float) -> float:
    if overlap < 0.25:
        return 0.375
    return 0.5 if overlap < 0.95 else 0.625


def draw_reference_heatmap(
    slide: Slide,
    pieces: Sequence[Piece],
    coordinates: NDArray[np.integer],
    scores: NDArray[np.floating],
    style: HeatmapStyle,
) -> Image.Image:
    """Draw scores over a slide.

    Parameters
    ----------
    slide
        The slide.
    pieces
        Its tissue, level-0 pixels.
    coordinates
        Top-left corners of the patches, (N, 2), level-0 pixels.
    scores
        (N,).
    style
        How to draw.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    canvas = _Canvas.of(slide.levels, style)
    background = _background(slide, canvas, style)
    values = (percentiles(scores) if style.to_percentiles else scores) / 100
    boxes = canvas.boxes(coordinates, style.patch)
    score_map, painted = _score_map(values, boxes, canvas.size, style.threshold)
    kernel = _blur_kernel(canvas.scaled(style.patch), style.overlap)
    if style.blur:
        score_map = np.asarray(cv2.GaussianBlur(score_map, kernel, 0), dtype=np.float64)
    if style.segment:
        painted &= canvas.tissue(pieces) > 0
    picture = np.where(painted[..., None], colors(score_map, style.cmap), background)
    if style.blur:
        picture = np.asarray(cv2.GaussianBlur(picture, kernel, 0), dtype=np.uint8)
    if style.alpha < 1:
        picture = np.asarray(cv2.addWeighted(picture, style.alpha, background, 1 - style.alpha, 0), np.uint8)
    return _resized(Image.fromarray(picture), style)


@dataclass(frozen=True)
class _Canvas:
    """A region of the slide at the resolution of one level."""

    origin: Pair
    size: Pair
    downsample: tuple[float, float]

    @classmethod
    def of(cls, levels: Sequence[Level], style: HeatmapStyle) -> _Canvas:
        whole = ((0, 0), (levels[0].width, levels[0].height))
        top_left, bottom_right = style.region or whole
        ratio = levels[style.level].downsample
        size = [math.ceil((b - a) / r) for a, b, r in zip(top_left, bottom_right, ratio, strict=True)]
        return cls(top_left, (size[0], size[1]), ratio)

    def scaled(self, extent: Pair) -> Pair:
        """Return a level-0 extent in pixels of the canvas, rounded up."""
        return math.ceil(extent[0] / self.downsample[0]), math.ceil(extent[1] / self.downsample[1])

    def boxes(self, coordinates: NDArray[np.integer], patch: Pair) -> NDArray[np.int64]:
        """Return left, top, right, bottom of the patches on the canvas, clipped, (N, 4)."""
        start = np.ceil((coordinates - np.asarray(self.origin)) / np.asarray(self.downsample)).astype(
            np.int64
        )
        end = start + np.asarray(self.scaled(patch))
        return np.concatenate([np.clip(start, 0, self.size), np.clip(end, 0, self.size)], axis=1)

    def tissue(self, pieces: Sequence[Piece]) -> NDArray[np.uint8]:
        """Return the tissue mask of the canvas."""
        offset = (int(self.origin[0] / self.downsample[0]), int(self.origin[1] / self.downsample[1]))
        return fill_pieces(pieces, self.size, self.downsample, offset)


def _background(slide: Slide, canvas: _Canvas, style: HeatmapStyle) -> Pixels:
    if style.blank_canvas:
        return np.full((canvas.size[1], canvas.size[0], 3), 255, dtype=np.uint8)
    return slide.read_region(canvas.origin, style.level, canvas.size)


def _score_map(
    values: NDArray[np.floating], boxes: NDArray[np.int64], size: Pair, threshold: float | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the mean score under each pixel and which pixels to colour, (height, width) both."""
    if threshold is None:
        return _mean_map(values, boxes, size)
    limit = threshold if threshold >= 0 else 1 / len(values)
    passed = values >= limit
    mean, _ = _mean_map(passed.astype(np.float64), boxes, size)
    # Half to even, as the reference rounds: two patches that disagree count as not passed.
    return np.round(mean), mean > 0


def _mean_map(
    values: NDArray[np.floating], boxes: NDArray[np.int64], size: Pair
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the mean value of the patches over each pixel and whether there is one, (height, width) both."""
    total = np.zeros((size[1], size[0]), dtype=np.float64)
    count = np.zeros((size[1], size[0]), dtype=np.int32)
    for value, (left, top, right, bottom) in zip(values, boxes, strict=True):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    return np.divide(total, count, out=total, where=count > 0), count > 0


def _blur_kernel(patch: Pair, overlap: float) -> Pair:
    return int(patch[0] * (1 - overlap)) * 2 + 1, int(patch[1] * (1 - overlap)) * 2 + 1


def _resized(picture: Image.Image, style: HeatmapStyle) -> Image.Image:
    if style.custom_downsample > 1:
        width, height = picture.size
        smaller = (int(width / style.custom_downsample), int(height / style.custom_downsample))
        picture = picture.resize(smaller, Image.Resampling.BICUBIC)
    if style.max_size is not None and max(picture.size) > style.max_size:
        width, height = picture.size
        scale = style.max_size / max(picture.size)
        picture = picture.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    return picture
