# SPDX-License-Identifier: Apache-2.0
"""DICOM slides whose frames lie elsewhere and are fetched in batches before they are decoded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from wsidicom.geometry import Point
from wsidicom.instance import WsiDicomImageData

from clam_core.slides import Pixels, WsiDicomSlide

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
        target = self.levels[level]
        wanted: set[Tile] = set()
        for x, y in locations:
            left, top = round(x / target.downsample[0]), round(y / target.downsample[1])
            right, bottom = min(left + size[0], target.width), min(top + size[1], target.height)
            wanted.update(tiles_under(self._images[level], (max(left, 0), max(top, 0), right, bottom)))
        self._fetch(level, sorted(wanted, key=lambda tile: (tile[1], tile[0])))

    @abstractmethod
    def _fetch(self, level: int, tiles: Sequence[Tile]) -> None:
        """Fetch the frames of tiles that are not kept yet, row by row."""


def tiles_under(image: WsiDicomImageData, box: tuple[int, int, int, int]) -> Iterator[Tile]:
    """Yield the tiles under a box (left, top, right, bottom) of level pixels."""
    width, height = image.tile_size.width, image.tile_size.height
    left, top, right, bottom = box
    for row in range(top // height, -(-bottom // height)):
        for column in range(left // width, -(-right // width)):
            yield column, row


def frame_number(image: WsiDicomImageData, tile: Tile) -> int:
    """Return the number of a tile's frame among those of its level, from 0; -1 where it has none (sparse)."""
    return int(image.tiles.get_frame_index(Point(*tile), image.default_z, image.default_path))
