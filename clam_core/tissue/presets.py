# SPDX-License-Identifier: Apache-2.0
"""The settings of the tissue segmentation, and the reference's named sets of them."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from clam_core.errors import ParameterError


@dataclass(frozen=True)
class TissueParameters:
    """How tissue is told from glass.

    Parameters
    ----------
    saturation_threshold
        Pixels of a higher saturation (0 to 255) are tissue; unused with Otsu.
    median_kernel
        Side of the median blur, in pixels of the segmentation level; odd.
    close_kernel
        Side of the morphological closing, in pixels of the segmentation level; 0: none.
    use_otsu
        Choose the threshold by Otsu's method instead.
    minimum_area
        Smallest tissue (holes taken off), in squares of 512 x 512 level-0 pixels.
    minimum_hole_area
        Smallest hole, in the same unit; smaller ones count as tissue.
    maximum_holes
        At most so many holes per piece of tissue, the largest; None: all.
    keep_contours
        Only these pieces of tissue, by index; empty: all.
    exclude_contours
        Not these pieces of tissue, by index.
    """

    saturation_threshold: int
    median_kernel: int
    close_kernel: int
    minimum_area: float
    minimum_hole_area: float
    maximum_holes: int | None
    use_otsu: bool = False
    keep_contours: tuple[int, ...] = ()
    exclude_contours: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.median_kernel < 1 or self.median_kernel % 2 == 0:
            raise ParameterError(f"The median kernel must be odd and positive, not {self.median_kernel}.")
        if self.close_kernel < 0 or (self.maximum_holes or 0) < 0:
            raise ParameterError("The closing kernel and the number of holes cannot be negative.")


PRESETS = MappingProxyType(
    {
        "default": TissueParameters(8, 7, 4, 100, 16, 8),
        "bwh_biopsy": TissueParameters(15, 11, 2, 1, 1, 2),
        "bwh_resection": TissueParameters(15, 11, 4, 100, 16, 8),
        "tcga": TissueParameters(8, 7, 4, 16, 4, 8),
        "heatmap_default": TissueParameters(15, 11, 2, 50, 8, 10),
    }
)
"""The reference CLAM's presets (its preset files, and the default of its heatmap pipeline)."""


def preset(name: str) -> TissueParameters:
    """Return a named preset.

    Raises
    ------
    ParameterError
        If there is none of that name.
    """
    if name not in PRESETS:
        raise ParameterError(f"There is no tissue preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
