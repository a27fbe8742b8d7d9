# SPDX-License-Identifier: Apache-2.0
"""Give a pyramid to a slide that lacks its upper part.

The converter's own way of adding levels (wsidicom 0.31) writes cut-off tiles at the right and lower edge,
which viewers reject; wsidicom 0.36, which the worker reads with, writes them in full size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from wsidicom import WsiDicom

LARGEST_TOP_PX = 2048
"""A viewer shows the whole slide from the smallest level: more pixels than this make it slow to open."""


def complete_pyramid(files: Sequence[Path], out: Path) -> tuple[Path, ...]:
    """Write the slide with all its missing dyadic levels.

    Parameters
    ----------
    files
        DICOM files of one slide.
    out
        An existing, empty folder.

    Returns
    -------
    tuple of Path
        The files of the completed slide.
    """
    with WsiDicom.open(list(files)) as wsi:
        written = wsi.save(
            out, add_missing_levels=True, include_thumbnails=False, workers=min(4, os.cpu_count() or 1)
        )
    return tuple(Path(str(path)) for path in written)


def needs_levels(files: Sequence[Path]) -> bool:
    """Tell whether the smallest level is too large to show the whole slide with."""
    with WsiDicom.open(list(files)) as wsi:
        top = min((level.size for level in wsi.levels), key=lambda size: size.width * size.height)
    return bool(max(top.width, top.height) > LARGEST_TOP_PX)
