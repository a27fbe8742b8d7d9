# SPDX-License-Identifier: Apache-2.0
"""Slides that OpenSlide reads: SVS, NDPI, TIFF, MRXS, DICOM files and more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import openslide

from clam_core.errors import SlideError
from clam_core.slides.folder import files_in
from clam_core.slides.formats import damage_of
from clam_core.slides.slide import Level, Pixels, SlideIdentity, container_name, pyramid


class OpenSlideSlide:
    """A slide file, or a folder of DICOM files, read by OpenSlide.

    Parameters
    ----------
    path
        The file; for DICOM any file of the series, or its folder.

    Raises
    ------
    SlideError
        If there is no such file, or OpenSlide cannot read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slide = _open(path)
        properties = self._slide.properties
        self._levels = pyramid(self._slide.level_dimensions)
        self._mpp = _mpp(properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y"))
        self._identity = SlideIdentity(
            series_instance_uid=properties.get("dicom.SeriesInstanceUID"),
            study_instance_uid=properties.get("dicom.StudyInstanceUID"),
            frame_of_reference_uid=properties.get("dicom.FrameOfReferenceUID"),
            container_id=container_name(properties.get("dicom.ContainerIdentifier")),
            name=path.name,
        )

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, level 0 first."""
        return self._levels

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Micrometres per pixel of level 0, (x, y)."""
        return self._mpp

    @property
    def identity(self) -> SlideIdentity:
        """UIDs for DICOM, and the file's name."""
        return self._identity

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Read a rectangle as `Slide.read_region` says."""
        try:
            rgba = np.asarray(self._slide.read_region(location, level, size))
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self._path.name} cannot be read at {location} of level {level} ({error}); "
                "the file is damaged or incomplete: copy it again from the scanner."
            ) from error
        return _on_white(rgba)

    def close(self) -> None:
        """Close the file."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _open(path: Path) -> openslide.OpenSlide:
    if not path.exists():
        raise SlideError(f"There is no slide at {path}; check the path.")
    reason = "the folder is empty"
    for file in _candidates(path):
        try:
            return openslide.OpenSlide(file)
        except openslide.OpenSlideError as error:
            reason = str(error)
    damage = damage_of(path)
    if damage is not None:
        raise SlideError(f"{path.name} {damage}. OpenSlide says: {reason}.")
    raise SlideError(f"{path.name} is not a slide that OpenSlide can read ({reason}).")


def _candidates(path: Path) -> Iterator[Path]:
    """Yield the file itself; of a folder every file, since only some may be levels of the pyramid."""
    if path.is_dir():
        yield from files_in(path)
    else:
        yield path


def _mpp(x: str | None, y: str | None) -> tuple[float, float] | None:
    """Return what two properties say; TIFF tags may be any text, and zero, infinity and NaN are no sizes."""
    try:
        sides = float(x or 0), float(y or 0)
    except ValueError:
        return None
    return sides if all(0 < side < math.inf for side in sides) else None


def _on_white(rgba: Pixels) -> Pixels:
    """Lay (h, w, 4) over white, so that what was not scanned looks like empty glass."""
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    blended = rgba[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha.astype(np.uint16))
    return np.asarray((blended + 127) // 255, dtype=np.uint8)
