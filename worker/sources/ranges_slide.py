# SPDX-License-Identifier: Apache-2.0
"""A slide read straight out of Orthanc's storage, frame by frame, in few requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from wsidicom import WsiDicom
from wsidicom.file.wsidicom_file_image_data import WsiDicomFileImageData
from wsidicom.geometry import Point

from clam_core.slides import WSIDICOM_ERRORS, Pixels, WsiDicomSlide
from worker.contract import InstanceRef
from worker.sources.errors import IncompleteSlideError
from worker.sources.filesystem import paths_of
from worker.sources.range_files import PieceCache, RangeFile, ReadRanges
from worker.sources.ranges_client import Range
from worker.sources.volumes import check_complete, incomplete

_BLOCKS_BOUND = 64 * 1024 * 1024
_FRAMES_BOUND = 128 * 1024 * 1024


class RangesSlide(WsiDicomSlide):
    """A slide whose frames are fetched in batches of byte ranges before they are decoded.

    Parameters
    ----------
    wsi
        The opened series.
    files
        Its instances by Orthanc id.
    """

    def __init__(self, wsi: WsiDicom, files: dict[str, RangeFile]) -> None:
        super().__init__(wsi)
        self._files = files
        self._frames = [_LevelFrames(level.default_instance.image_data) for level in wsi.pyramids[0]]

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
        frames = self._frames[level]
        wanted: set[tuple[int, int]] = set()
        for x, y in locations:
            left, top = round(x / target.downsample[0]), round(y / target.downsample[1])
            right, bottom = min(left + size[0], target.width), min(top + size[1], target.height)
            wanted.update(frames.tiles_of((max(left, 0), max(top, 0), right, bottom)))
        for name, ranges in frames.ranges_of(sorted(wanted, key=lambda tile: (tile[1], tile[0]))).items():
            self._files[name].fetch_frames(ranges)


class _LevelFrames:
    """Where the frames of one level lie.

    Parameters
    ----------
    image_data
        wsidicom's image of the level. Its readers and their frame index are private to wsidicom 0.36; the
        tests hold them to what its public `read_tile` returns.
    """

    def __init__(self, image_data: object) -> None:
        if not isinstance(image_data, WsiDicomFileImageData):
            raise IncompleteSlideError("A level of the slide is not stored as DICOM files.")
        self._image = image_data
        self._places: dict[tuple[int, int], tuple[str, int, int] | tuple[()]] = {}

    def tiles_of(self, box: tuple[int, int, int, int]) -> Iterable[tuple[int, int]]:
        """Return the tiles, (column, row), under a box (left, top, right, bottom) of level pixels."""
        width, height = self._image.tile_size.width, self._image.tile_size.height
        left, top, right, bottom = box
        for row in range(top // height, -(-bottom // height)):
            for column in range(left // width, -(-right // width)):
                yield column, row

    def ranges_of(self, tiles: Iterable[tuple[int, int]]) -> dict[str, list[Range]]:
        """Return the byte ranges of tiles by the file that holds them; sparse tiles have none."""
        ranges: dict[str, list[Range]] = defaultdict(list)
        for tile in tiles:
            place = self._places.get(tile)
            if place is None:
                place = self._places[tile] = self._place(tile)
            if place:
                name, offset, length = place
                ranges[name].append((offset, length))
        return ranges

    def _place(self, tile: tuple[int, int]) -> tuple[str, int, int] | tuple[()]:
        image = self._image
        frame = image.tiles.get_frame_index(Point(*tile), image.default_z, image.default_path)
        if frame < 0:
            return ()
        reader = image._get_reader(frame)  # noqa: SLF001 - see the class' docstring
        offset, length = reader.frame_index[frame - reader.frame_offset]
        return reader.filepath.name, int(offset), int(length)


def open_ranges_slide(instances: Sequence[InstanceRef], read_ranges: ReadRanges) -> RangesSlide:
    """Open a slide whose instances are read by byte ranges.

    Parameters
    ----------
    instances
        The instances of the series that hold VOLUME images, and no others.
    read_ranges
        Reads their bytes.

    Raises
    ------
    SourceError
        If its bytes cannot be had, or one of the instances cannot be opened: a slide that lacks a level
        would be analysed at a wrong one without a word.
    SlideError
        If it is no slide.
    RangesMissingError
        If the server has no ranges route.
    """
    guard = _Guard(read_ranges)
    blocks, frames = PieceCache(_BLOCKS_BOUND), PieceCache(_FRAMES_BOUND)
    files = {
        instance.id: RangeFile(instance, guard.read, blocks, frames)
        for instance in instances
        if instance.is_volume
    }
    try:
        wsi = WsiDicom.open(paths_of(files))
    except WSIDICOM_ERRORS as error:
        guard.raise_failure()
        raise incomplete(len(files), len(files)) from error
    try:
        guard.raise_failure()
        check_complete(wsi, files)
        return RangesSlide(wsi, files)
    except BaseException:
        wsi.close()
        raise


class _Guard:
    """Remembers a failed read: wsidicom's opening leaves out a file that raises, and says nothing."""

    def __init__(self, read_ranges: ReadRanges) -> None:
        self._read_ranges = read_ranges
        self._failure: Exception | None = None

    def read(self, instance: InstanceRef, ranges: Sequence[Range]) -> list[bytes]:
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
