# SPDX-License-Identifier: Apache-2.0
"""DICOM slides whose frames lie elsewhere and are fetched in batches before they are decoded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from wsidicom.geometry import Point
from wsidicom.instance import WsiDicomImageData
from wsidicom.instance.tile_index.full_tile_index import FullTileIndex

from clam_core.slides import DAMAGED, Pixels, WsiDicomSlide

from .errors import TruncatedSlideError

Tile = tuple[int, int]
"""(column, row) among the tiles of a level."""


class PrefetchingSlide(WsiDicomSlide):
    """A slide that fetches the frames under rectangles before they are read."""

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Read a rectangle, all its frames in one request."""
        self.prefetch(level, [location], size)
        return super().read_region(location, level, size)

    def prefetch(self, level: int, locations: Iterable[tuple[int, int]], size: tuple[int, int]) -> None:
        """Fetch the frames under several rectangles, each frame once, in as few requests as possible.

        A hint: reading fetches what was not prefetched, or was dropped since for want of room.

        Parameters
        ----------
        level
            Index into `levels`.
        locations
            Top-left corners, (x, y), in level-0 pixels, such as those of a batch of patches.
        size
            (width, height) in pixels of the level.

        Raises
        ------
        SourceError
            If the frames cannot be had.
        """
        wanted: set[Tile] = set()
        for location in locations:
            wanted.update(self._tiles_under(location, level, size))
        self._fetch(level, sorted(wanted, key=lambda tile: (tile[1], tile[0])))

    @abstractmethod
    def _fetch(self, level: int, tiles: Sequence[Tile]) -> None:
        """Fetch the frames of tiles that are not kept yet, row by row."""


class FrameNumbers:
    """Tells the numbers of the frames of one level; nothing is read before it is asked the first time.

    wsidicom looks for focal plane and optical path anew for every tile, which takes a tenth of the time of
    decoding a small one.

    Parameters
    ----------
    image
        wsidicom's image of the level.
    """

    def __init__(self, image: WsiDicomImageData) -> None:
        self._image = image

    def of(self, tile: Tile) -> int:
        """Return the number of a tile's frame among those of its level, from 0; -1 for none (sparse).

        Raises
        ------
        TruncatedSlideError
            If the headers do not say.
        """
        try:
            return self._number(tile)
        except DAMAGED as error:
            raise places_unknown() from error

    @cached_property
    def _number(self) -> Callable[[Tile], int]:
        index, plane = self._image.tiles, (self._image.default_z, self._image.default_path)
        if isinstance(index, FullTileIndex):
            # All tiles of a plane, row by row (TILED_FULL, DICOM PS3.3, C.7.6.17.3).
            first, columns = index.get_frame_index(Point(0, 0), *plane), index.tiled_size.width
            return lambda tile: int(first + tile[0] + columns * tile[1])
        return lambda tile: int(index.get_frame_index(Point(*tile), *plane))


def places_unknown() -> TruncatedSlideError:
    """Say that the slide does not tell where its tiles lie."""
    return TruncatedSlideError(
        "Where the slide's tiles lie cannot be read: the file is damaged, or its upload was cut short; "
        "store the slide again."
    )
