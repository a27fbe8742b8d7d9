# SPDX-License-Identifier: Apache-2.0
"""DICOM slides read by wsidicom, from files or from wherever its file system reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from pydicom import Dataset
from wsidicom import WsiDicom
from wsidicom.config import Settings
from wsidicom.errors import WsiDicomNotFoundError
from wsidicom.geometry import Point
from wsidicom.group.level import BaseLevel
from wsidicom.instance import WsiDicomImageData
from wsidicom.instance.tile_index.full_tile_index import FullTileIndex
from wsidicom.series import Pyramid

from clam_core.errors import FocalPlanesError, NoVolumeError, OpticalPathsError, PyramidsError, SlideError
from clam_core.slides.decoders import mend_decoder
from clam_core.slides.slide import Level, Pixels, SlideIdentity, container_name, pyramid
from clam_core.slides.wsidicom_errors import DAMAGED, UNREADABLE_HEADER

OPENING = Settings(strict_tile_size_check=False)
"""Levels may have tiles of different sizes: by default wsidicom leaves those out whose tiles are not those of
level 0, and without its small levels a slide is read whole to find tissue."""


class WsiDicomSlide:
    """The VOLUME pyramid of one DICOM series.

    Parameters
    ----------
    wsi
        An opened series; closed together with this slide.
    name
        Name to show where the series has no container identifier.

    Raises
    ------
    NoVolumeError
        If the series holds no level of a pyramid.
    SlideError
        If it holds several optical paths, focal planes or pyramids: which one to analyse is not guessed; or
        if its header cannot be true.
    """

    def __init__(self, wsi: WsiDicom, name: str | None = None) -> None:
        self._wsi = wsi
        try:
            self._pyramid = _only_pyramid(wsi)
            levels = list(self._pyramid)
            self._images: list[WsiDicomImageData] = [level.default_instance.image_data for level in levels]
            for image in self._images:
                mend_decoder(image)
            self._levels = pyramid([(level.size.width, level.size.height) for level in levels])
            self._mpp = _mpp(self._pyramid)
            self._identity = _identity(wsi, name)
        except UNREADABLE_HEADER as error:
            raise _bad_header() from error

    @classmethod
    def open(cls, path: Path | Sequence[Path]) -> Self:
        """Open a file, a folder, or the files of one series.

        Raises
        ------
        NoVolumeError
            If there are DICOM slide files, and none of them is a level of a pyramid.
        SlideError
            If nothing there can be opened.
        """
        first = path if isinstance(path, Path) else path[0]
        if not first.exists():
            raise SlideError(f"There is no slide at {first}; check the path.")
        try:
            wsi = WsiDicom.open(path if isinstance(path, Path) else list(path), settings=OPENING)
        except WsiDicomNotFoundError as error:
            raise _no_volume(first.name) from error
        except DAMAGED as error:
            raise SlideError(f"{first.name} cannot be opened as a DICOM slide ({error}).") from error
        except UNREADABLE_HEADER as error:
            raise _bad_header() from error
        try:
            return cls(wsi, first.name)
        except BaseException:
            wsi.close()
            raise

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
        """UIDs and container of the series."""
        return self._identity

    @property
    def headers(self) -> tuple[Dataset, ...]:
        """Headers of the levels' instances, without pixels, for objects that refer to the slide.

        They name the patient: they belong into nothing but such objects.
        """
        return tuple(dataset.as_dataset() for level in self._pyramid for dataset in level.datasets)

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Read a rectangle as `Slide.read_region` says."""
        target = self._levels[level]
        left = round(location[0] / target.downsample[0])
        top = round(location[1] / target.downsample[1])
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + size[0], target.width), min(top + size[1], target.height)
        if x0 >= x1 or y0 >= y1:
            return _white(size)
        inside = self._read((x0, y0), level, (x1 - x0, y1 - y0))
        if inside.shape[:2] == (size[1], size[0]):
            return inside
        region = _white(size)
        region[y0 - top : y1 - top, x0 - left : x1 - left] = inside
        return region

    def is_stored(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> bool:
        """Tell whether any tile under a rectangle is stored (TILED_SPARSE slides may lack some)."""
        image = self._images[level]
        try:
            index, plane = image.tiles, (image.default_z, image.default_path)
            return isinstance(index, FullTileIndex) or any(
                index.get_frame_index(Point(*tile), *plane) >= 0
                for tile in self._tiles_under(location, level, size)
            )
        except DAMAGED as error:
            raise _unreadable(location, level, error) from error

    def _tiles_under(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Iterator[tuple[int, int]]:
        """Return the tiles, (column, row), under a rectangle."""
        target = self._levels[level]
        left, top = round(location[0] / target.downsample[0]), round(location[1] / target.downsample[1])
        right, bottom = min(left + size[0], target.width), min(top + size[1], target.height)
        return tiles_under(self._images[level], (max(left, 0), max(top, 0), right, bottom))

    def _read(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        try:
            return self._inside(location, level, size)
        except DAMAGED as error:
            raise _unreadable(location, level, error) from error
        except OSError as error:
            # Decoders raise it as well, about a frame; what the system raises has a number.
            if error.errno is not None:
                raise
            raise _unreadable(location, level, error) from error

    def _inside(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Return a rectangle that lies inside a level, put together of its tiles.

        wsidicom's own `read_region` does the same at 0.3 ms for each tile, as long as decoding a small one
        takes.
        """
        (left, top), (width, height) = location, size
        side = self._images[level].tile_size
        region = np.empty((height, width, 3), dtype=np.uint8)
        for row in range(top // side.height, (top + height - 1) // side.height + 1):
            y = row * side.height
            y0, y1 = max(top, y), min(top + height, y + side.height)
            for column in range(left // side.width, (left + width - 1) // side.width + 1):
                x = column * side.width
                x0, x1 = max(left, x), min(left + width, x + side.width)
                tile = self._tile(level, (column, row))
                part = tile[y0 - y : y1 - y, x0 - x : x1 - x]
                region[y0 - top : y1 - top, x0 - left : x1 - left] = _coloured(part)
        return region

    def _tile(self, level: int, tile: tuple[int, int]) -> Pixels:
        """Return the pixels of a tile, (column, row); they may be shared."""
        image = self._images[level]
        pixels: Pixels = image.get_decoded_tile(Point(*tile), image.default_z, image.default_path)
        return pixels

    def close(self) -> None:
        """Close the series."""
        self._wsi.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def tiles_under(image: WsiDicomImageData, box: tuple[int, int, int, int]) -> Iterator[tuple[int, int]]:
    """Yield the tiles, (column, row), under a box (left, top, right, bottom) of level pixels."""
    width, height = image.tile_size.width, image.tile_size.height
    left, top, right, bottom = box
    for row in range(top // height, -(-bottom // height)):
        for column in range(left // width, -(-right // width)):
            yield column, row


def _white(size: tuple[int, int]) -> Pixels:
    return np.full((size[1], size[0], 3), 255, dtype=np.uint8)


def _coloured(pixels: Pixels) -> Pixels:
    """Return pixels with an axis of colours, which grey ones lack."""
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _unreadable(location: tuple[int, int], level: int, error: Exception) -> SlideError:
    return SlideError(
        f"The slide cannot be read at {location} of level {level} ({error}); "
        "the file is damaged, or its compression is not supported."
    )


def _bad_header() -> SlideError:
    return SlideError(
        "The slide's header contradicts itself or leaves something empty, in what it says of levels, spacing "
        "or the places of tiles; export or convert the slide again."
    )


def _no_volume(name: str) -> NoVolumeError:
    return NoVolumeError(
        f"{name} holds no image of the whole slide (ImageType VOLUME), only labels, overviews "
        "or other objects; choose the series that holds the slide itself."
    )


def _only_pyramid(wsi: WsiDicom) -> Pyramid:
    pyramids = list(wsi.pyramids)
    if not pyramids:
        raise _no_volume("The series")
    if len(pyramids) > 1:
        raise PyramidsError(
            f"The series holds {len(pyramids)} pyramids; "
            "store each of them as a series of its own and analyse that."
        )
    _check_planes(pyramids[0].base_level)
    _check_images(pyramids[0])
    return pyramids[0]


def _check_planes(base: BaseLevel) -> None:
    several = (
        (OpticalPathsError, "optical paths", base.optical_paths),
        (FocalPlanesError, "focal planes", base.focal_planes),
    )
    for kind, what, found in several:
        if len(found) > 1:
            raise kind(
                f"The slide has {len(found)} {what}, and the model knows one; "
                "export one of them as a series of its own."
            )


def _check_images(pyramid_: Pyramid) -> None:
    """See that each level is one image: of several, wsidicom shows the one whose file comes first."""
    for level in pyramid_:
        if len(level.instances) > 1:
            raise PyramidsError(
                f"The series holds {len(level.instances)} images of {level.size.width} x {level.size.height} "
                "pixels, and nothing says that they are parts of one: store each scan as a series of its own."
            )


def _mpp(pyramid_: Pyramid) -> tuple[float, float] | None:
    spacing = pyramid_.base_level.pixel_spacing
    if spacing is None or spacing.width <= 0 or spacing.height <= 0:
        return None
    # Decimal strings of millimetres: rounding keeps 0.000499 mm from becoming 0.49900000000000005 um.
    return round(float(spacing.width) * 1000, 6), round(float(spacing.height) * 1000, 6)


def _identity(wsi: WsiDicom, name: str | None) -> SlideIdentity:
    uids = wsi.uids
    # The tag itself, from the smallest header: wsidicom's metadata model refuses a whole series for one
    # unusual code somewhere else in it.
    header = min(wsi.pyramid.datasets, key=lambda dataset: dataset.frame_count).as_dataset()
    container = header.get("ContainerIdentifier")
    return SlideIdentity(
        series_instance_uid=str(uids.series_instance),
        study_instance_uid=str(uids.study_instance),
        frame_of_reference_uid=str(uids.frame_of_reference) if uids.frame_of_reference else None,
        container_id=container_name(None if container is None else str(container)),
        name=name,
    )
