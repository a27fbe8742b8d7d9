# SPDX-License-Identifier: Apache-2.0
"""A slide read straight out of Orthanc's storage, frame by frame, in few requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from wsidicom import WsiDicom

from clam_core.slides import OPENING, UNREADABLE_HEADER, Pixels
from worker.api.contract import Claim, InstanceRef

from .filesystem import paths_of
from .frame_places import AskFrames, FramePlaces
from .headers import read_header
from .piece_cache import PieceCache
from .prefetching import PrefetchingSlide, Tile
from .preflight import check_slide
from .range_files import Pieces, Range, RangeFile, RangeStream, ReadRanges
from .source import SourceReport, Verified
from .volumes import check_complete, incomplete, volumes_of

_BLOCKS_BOUND = 64 * 1024 * 1024
_FRAMES_BOUND = 128 * 1024 * 1024
_TILES_BOUND = 100 * 1024 * 1024


class RangesSlide(PrefetchingSlide, Verified):
    """A slide whose frames are fetched as byte ranges of its files.

    Parameters
    ----------
    wsi
        The opened series.
    files
        Its instances by Orthanc id.
    report
        Says how the files are read.
    ask_frames
        Asks the server where the frames of an instance lie.
    """

    def __init__(
        self,
        wsi: WsiDicom,
        files: Mapping[str, RangeFile],
        report: Callable[[], SourceReport],
        ask_frames: AskFrames,
    ) -> None:
        super().__init__(wsi)
        self._report = report
        self._places = [FramePlaces(image, files, ask_frames) for image in self._images]
        self._tiles = PieceCache[tuple[int, Tile], Pixels](_TILES_BOUND, lambda tile: tile.nbytes)

    def source_report(self) -> SourceReport:
        """Say how the slide was read, and what it cost so far."""
        return self._report()

    def _fetch(self, level: int, tiles: Sequence[Tile]) -> None:
        for file, ranges in self._places[level].ranges_of(tiles).items():
            file.fetch_frames(ranges)

    def _inside(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Pixels:
        """Read a rectangle; one that is a tile is handed out as it was decoded, neither copied nor kept."""
        tile = self._tile_at(location, level, size)
        if tile is None or self._tiles.get((level, tile)) is not None:
            return super()._inside(location, level, size)
        pixels = self._decoded(level, tile)
        if pixels.flags.carray and pixels.shape == (size[1], size[0], 3):
            return pixels
        self._tiles.put((level, tile), pixels)
        return super()._inside(location, level, size)

    def _tile_at(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Tile | None:
        """Return the tile that a rectangle is, or None."""
        side = self._images[level].tile_size
        tile = location[0] // side.width, location[1] // side.height
        is_tile = size == (side.width, side.height) and location == (tile[0] * size[0], tile[1] * size[1])
        return tile if is_tile else None

    def _tile(self, level: int, tile: Tile) -> Pixels:
        """Return a tile, kept for the other rectangles that have a part of it."""
        pixels = self._tiles.get((level, tile))
        if pixels is None:
            pixels = self._decoded(level, tile)
            self._tiles.put((level, tile), pixels)
        return pixels

    def _decoded(self, level: int, tile: Tile) -> Pixels:
        image, place = self._images[level], self._places[level].place(tile)
        if place is None:
            return np.array(image.blank_tile)
        file, frame = place
        pixels: Pixels = image.decoder.decode(file.frame(frame))
        return pixels


def open_ranges_slide(
    claim: Claim,
    read_ranges: ReadRanges,
    report: Callable[[tuple[str, ...]], SourceReport],
    ask_frames: AskFrames = lambda _instance: None,
) -> RangesSlide:
    """Open a slide whose instances are read by byte ranges.

    Parameters
    ----------
    claim
        The request; of its series the VOLUME images are read, and no others.
    read_ranges
        Reads their bytes.
    report
        Says what was read so far, given the notes of the preflight.
    ask_frames
        Asks the server where the frames of an instance lie, so that nobody walks through it to find them.

    Raises
    ------
    SourceError
        If its bytes cannot be had, or one of the instances cannot be opened: a slide that lacks a level
        would be analysed at a wrong one without a word.
    SlideError
        If it is no slide, or not one that may be analysed.
    WayMissingError
        If the server does not offer such reading.
    """
    guard = _Guard(read_ranges)
    blocks, frames = Pieces(_BLOCKS_BOUND, len), Pieces(_FRAMES_BOUND, len)
    files = {instance.id: RangeFile(instance, guard.read, blocks, frames) for instance in volumes_of(claim)}
    notes = check_slide([read_header(RangeStream(file)) for file in files.values()], claim.parameters)
    try:
        wsi = WsiDicom.open(paths_of(files), settings=OPENING)
    except UNREADABLE_HEADER as error:
        guard.raise_failure()
        raise incomplete(len(files), len(files)) from error
    try:
        guard.raise_failure()
        check_complete(wsi, files)
        return RangesSlide(wsi, files, lambda: report(notes), ask_frames)
    except BaseException:
        wsi.close()
        raise


class _Guard:
    """Remembers a failed read: wsidicom's opening leaves out a file that raises, and says nothing."""

    def __init__(self, read_ranges: ReadRanges) -> None:
        self._read_ranges = read_ranges
        self._failure: Exception | None = None

    def read(self, instance: InstanceRef, ranges: Sequence[Range]) -> list[memoryview]:
        """Read, and remember why it failed."""
        try:
            return self._read_ranges(instance, ranges)
        except Exception as error:
            self._failure = error
            raise

    def raise_failure(self) -> None:
        """Raise the failure of a read, if there was one."""
        if self._failure is not None:
            raise self._failure
