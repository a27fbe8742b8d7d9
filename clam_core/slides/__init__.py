# SPDX-License-Identifier: Apache-2.0
"""Slides: one protocol, and the readers behind it."""

from pathlib import Path

from clam_core.slides.fetch_ahead import FetchAhead
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
)
from clam_core.slides.whole_level import level_for_picture, picture_strips, strips, thumbnail
from clam_core.slides.wsidicom_errors import DAMAGED, WSIDICOM_ERRORS
from clam_core.slides.wsidicom_slide import OPENING, WsiDicomSlide, tiles_under

__all__ = [
    "DAMAGED",
    "OPENING",
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
        If there is nothing at `path`, or it is no slide.
    """
    if _is_dicom(path):
        return WsiDicomSlide.open(path)
    return OpenSlideSlide(path)


def _is_dicom(path: Path) -> bool:
    """Tell DICOM by its preamble (PS3.10, 7.1), and a folder by any of its files."""
    if path.is_dir():
        return any(_is_dicom(file) for file in sorted(path.iterdir()) if file.is_file())
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
