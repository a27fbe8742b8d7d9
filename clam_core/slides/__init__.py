# SPDX-License-Identifier: Apache-2.0
"""Slides: one protocol, and the readers behind it."""

from pathlib import Path

from clam_core.slides.fetch_ahead import FetchAhead
from clam_core.slides.folder import is_dicom, require_one_slide
from clam_core.slides.formats import damage_of
from clam_core.slides.jpeg_colours import colours_of_jpeg
from clam_core.slides.openslide_slide import OpenSlideSlide
from clam_core.slides.slide import (
    Level,
    Pixels,
    Prefetching,
    Slide,
    SlideIdentity,
    Sparse,
    best_level_for_downsample,
    is_square,
)
from clam_core.slides.whole_level import level_for_picture, picture_strips, strips, thumbnail
from clam_core.slides.wsidicom_errors import DAMAGED, UNREADABLE_HEADER, WSIDICOM_ERRORS
from clam_core.slides.wsidicom_slide import OPENING, WsiDicomSlide, tiles_under

__all__ = [
    "DAMAGED",
    "OPENING",
    "UNREADABLE_HEADER",
    "WSIDICOM_ERRORS",
    "FetchAhead",
    "Level",
    "OpenSlideSlide",
    "Pixels",
    "Prefetching",
    "Slide",
    "SlideIdentity",
    "Sparse",
    "WsiDicomSlide",
    "best_level_for_downsample",
    "colours_of_jpeg",
    "damage_of",
    "is_square",
    "level_for_picture",
    "open_slide",
    "picture_strips",
    "strips",
    "thumbnail",
    "tiles_under",
]


def open_slide(path: Path) -> Slide:
    """Open a slide: DICOM files and folders through wsidicom, everything else through OpenSlide.

    Raises
    ------
    NoVolumeError
        If DICOM files hold no level of a pyramid.
    SlideError
        If there is nothing at `path`, it is no slide or damaged, or a folder of several.
    """
    if path.is_dir() or is_dicom(path):
        require_one_slide(path)
    if is_dicom(path):
        return WsiDicomSlide.open(path)
    return OpenSlideSlide(path)
