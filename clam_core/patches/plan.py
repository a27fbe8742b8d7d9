# SPDX-License-Identifier: Apache-2.0
"""From which level patches are read, and how large: the model sees the magnification it was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from clam_core.errors import MissingMppError, MppMismatchError, ParameterError
from clam_core.patches.interchange import PatchFile
from clam_core.slides import Level, Pixels, Slide

MPP_TOLERANCE = 0.02
"""Spacings that differ by less count as equal: scanners round, and resampling by a pixel only blurs."""
COARSEST_RATIO = 2.0
"""Beyond this the slide shows half the detail or less of what the model was trained on: refused."""

_SIZE_TOLERANCE = 0.01
"""The same glass stored in another way may lack some pixels at its edges."""

COARSER = "mpp_coarser_than_model"
"""Flag of a result whose slide is coarser than the model's training material."""


@dataclass(frozen=True)
class PatchPlan:
    """How patches are read.

    Parameters
    ----------
    level
        Level of the slide.
    read_px
        (width, height) to read, in pixels of that level.
    patch_px
        Side of the patch after the resize: what the encoder gets.
    footprint
        (width, height) of a patch in level-0 pixels.
    mpp
        Micrometres per pixel of the patch as the encoder gets it; None where the slide does not say.
    flags
        What the reader of the result should know.
    black_outside
        Whether what lies beyond the slide's edge is black, as in the reference, and not white like glass.
    """

    level: int
    read_px: tuple[int, int]
    patch_px: int
    footprint: tuple[int, int]
    mpp: float | None
    flags: tuple[str, ...] = ()
    black_outside: bool = False


def plan_by_mpp(
    levels: Sequence[Level], mpp: tuple[float, float] | None, wanted_mpp: float, patch_px: int
) -> PatchPlan:
    """Choose the coarsest level that still holds the wanted detail, and the exact resize from there.

    Parameters
    ----------
    levels
        The slide's pyramid.
    mpp
        Micrometres per pixel of level 0, (x, y).
    wanted_mpp
        Micrometres per pixel the model was trained at.
    patch_px
        Side of its patches, in pixels at that spacing.

    Raises
    ------
    MissingMppError
        If `mpp` is None.
    MppMismatchError
        If level 0 is more than twice as coarse as the model wants.
    """
    if mpp is None:
        raise MissingMppError(
            "The slide does not say how large its pixels are: give the micrometres per pixel of its full "
            'resolution with --mpp, with the request parameter "mpp", or in the slide\'s own tags.'
        )
    base = sum(mpp) / 2
    if base > wanted_mpp * COARSEST_RATIO:
        raise MppMismatchError(
            f"The slide has {base:g} micrometres per pixel at best and the model wants {wanted_mpp:g}: "
            "scan it at a higher magnification, or choose a model for this one."
        )
    level = _coarsest_fitting(levels, base, wanted_mpp)
    ratios = levels[level].downsample
    spacing = [side * ratio for side, ratio in zip(mpp, ratios, strict=True)]
    # From level 0 alone: the same glass is cut into the same patches, whatever levels its slide has.
    footprint = [max(1, round(patch_px * _snapped(wanted_mpp / side))) for side in mpp]
    read = [max(1, round(px / ratio)) for px, ratio in zip(footprint, ratios, strict=True)]
    return PatchPlan(
        level=level,
        read_px=(read[0], read[1]),
        patch_px=patch_px,
        footprint=(footprint[0], footprint[1]),
        mpp=(read[0] * spacing[0] + read[1] * spacing[1]) / (2 * patch_px),
        flags=(COARSER,) if base > wanted_mpp * (1 + MPP_TOLERANCE) else (),
    )


def plan_by_level(
    levels: Sequence[Level], mpp: tuple[float, float] | None, level: int, patch_px: int
) -> PatchPlan:
    """Read a fixed level whatever its magnification, as the reference CLAM does.

    Raises
    ------
    ParameterError
        If there is no such level.
    """
    if not 0 <= level < len(levels):
        raise ParameterError(
            f"The slide has levels 0 to {len(levels) - 1}, and patch level {level} was asked for."
        )
    ratio = levels[level].downsample
    return PatchPlan(
        level=level,
        read_px=(patch_px, patch_px),
        patch_px=patch_px,
        footprint=(patch_px * int(ratio[0]), patch_px * int(ratio[1])),
        mpp=None if mpp is None else (mpp[0] * ratio[0] + mpp[1] * ratio[1]) / 2,
        black_outside=True,
    )


def plan_of_file(
    levels: Sequence[Level],
    mpp: tuple[float, float] | None,
    file: PatchFile,
    wanted_mpp: float,
    patch_px: int,
) -> PatchPlan:
    """Read the patches that another program laid as its file says, whatever their magnification.

    Where they show as much of the slide as the model's own patches would, they are read as those are.

    Raises
    ------
    ParameterError
        If the file does not say how its patches are read, or they are not on this slide.
    """
    if file.patch_size is None or file.patch_level is None or file.patch_size < 1:
        lacking = "patch_level" if file.patch_level is None else "patch_size"
        raise ParameterError(f"{file.name} was named for its patches and does not say their {lacking}.")
    if len(file.coordinates) == 0:
        raise ParameterError(f"{file.name} was named for its patches and holds none.")
    level = _level_of(levels, file, file.patch_level)
    plan = plan_by_level(levels, mpp, level, file.patch_size)
    if file.patch_height is not None:
        footprint = plan.footprint[0], file.patch_height * int(levels[level].downsample[1])
        plan = replace(plan, read_px=(file.patch_size, file.patch_height), footprint=footprint)
    _require_same_slide(levels, level, file)
    if mpp is None or sum(mpp) / 2 > wanted_mpp * COARSEST_RATIO:
        return plan
    own = plan_by_mpp(levels, mpp, wanted_mpp, patch_px)
    return own if own.footprint == plan.footprint else plan


def _require_same_slide(levels: Sequence[Level], level: int, file: PatchFile) -> None:
    base, here = levels[0], (levels[level].width, levels[level].height)
    inside = (file.coordinates >= 0) & (file.coordinates < (base.width, base.height))
    noted = file.level_size or here
    alike = all(abs(one / other - 1) <= _SIZE_TOLERANCE for one, other in zip(noted, here, strict=True))
    if not (inside.all() and alike):
        raise ParameterError(
            f"{file.name} holds the patches of another slide; this one has {base.width} x {base.height} px."
        )


def _level_of(levels: Sequence[Level], file: PatchFile, noted: int) -> int:
    """Return the level that was meant: the same glass stored in another way has other levels."""
    if file.downsample is None:
        return noted
    for number, level in enumerate(levels):
        ratios = zip(level.downsample, file.downsample, strict=True)
        if all(abs(here / there - 1) <= MPP_TOLERANCE for here, there in ratios):
            return number
    shown = ", ".join(f"{level.downsample[0]:g}" for level in levels)
    raise ParameterError(
        f"{file.name} was laid on a level downsampled {file.downsample[0]:g} times, and this slide has the "
        f"levels {shown}."
    )


def read_patch(slide: Slide, plan: PatchPlan, corner: tuple[int, int]) -> Pixels:
    """Read one patch as the encoder gets it: RGB, uint8, (patch_px, patch_px, 3)."""
    pixels = slide.read_region(corner, plan.level, plan.read_px)
    if plan.black_outside:
        pixels = _blackened(pixels, slide.levels[plan.level], corner)
    side = plan.patch_px
    if pixels.shape[:2] == (side, side):
        return pixels
    smaller = pixels.shape[0] >= side and pixels.shape[1] >= side
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=method), dtype=np.uint8)


def _blackened(pixels: Pixels, level: Level, corner: tuple[int, int]) -> Pixels:
    """Make black what lies right of or below the slide; a patch never starts left of or above it."""
    width = max(0, level.width - int(corner[0] / level.downsample[0]))
    height = max(0, level.height - int(corner[1] / level.downsample[1]))
    if width >= pixels.shape[1] and height >= pixels.shape[0]:
        return pixels
    result = np.zeros_like(pixels)
    result[:height, :width] = pixels[:height, :width]
    return result


def _coarsest_fitting(levels: Sequence[Level], base: float, wanted: float) -> int:
    limit = wanted * (1 + MPP_TOLERANCE)
    fitting = [index for index, level in enumerate(levels) if base * sum(level.downsample) / 2 <= limit]
    return max(fitting, key=lambda index: sum(levels[index].downsample), default=0)


def _snapped(ratio: float) -> float:
    """Return the power of two that a ratio equals within the tolerance, or the ratio: levels mostly halve."""
    nearest = 2.0 ** round(math.log2(ratio))
    return nearest if abs(ratio / nearest - 1) <= MPP_TOLERANCE else ratio
