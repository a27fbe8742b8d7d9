# SPDX-License-Identifier: Apache-2.0
"""A slide read straight out of Orthanc's storage, frame by frame, in few requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from wsidicom import WsiDicom
from wsidicom.file.wsidicom_file_image_data import WsiDicomFileImageData

from clam_core.slides import OPENING, WSIDICOM_ERRORS
from worker.contract import Claim, InstanceRef
from worker.preflight import check_slide
from worker.sources.errors import IncompleteSlideError
from worker.sources.filesystem import paths_of
from worker.sources.headers import read_header
from worker.sources.prefetching import PrefetchingSlide, Tile, frame_number
from worker.sources.range_files import PieceCache, Range, RangeFile, RangeStream, ReadRanges
from worker.sources.source import SourceReport
from worker.sources.volumes import check_complete, incomplete, volumes_of

_BLOCKS_BOUND = 64 * 1024 * 1024
_FRAMES_BOUND = 128 * 1024 * 1024


class RangesSlide(PrefetchingSlide):
    """A slide whose frames are fetched as byte ranges of its files.

    Parameters
    ----------
    wsi
        The opened series.
    files
        Its instances by Orthanc id.
    report
        Says how the files are read.
    """

    def __init__(
        self, wsi: WsiDicom, files: Mapping[str, RangeFile], report: Callable[[], SourceReport]
    ) -> None:
        super().__init__(wsi)
        self._files = files
        self._report = report
        self._places = [_FramePlaces(image) for image in self._images]

    def source_report(self) -> SourceReport:
        """Say how the slide was read, and what it cost so far."""
        return self._report()

    def _fetch(self, level: int, tiles: Sequence[Tile]) -> None:
        for name, ranges in self._places[level].ranges_of(tiles).items():
            self._files[name].fetch_frames(ranges)


class _FramePlaces:
    """Where the frames of one level lie.

    Parameters
    ----------
    image
        wsidicom's image of the level. Its readers and their frame index are private to wsidicom 0.36; the
        tests hold them to what its public `read_tile` returns.
    """

    def __init__(self, image: object) -> None:
        if not isinstance(image, WsiDicomFileImageData):
            raise IncompleteSlideError("A level of the slide is not stored as DICOM files.")
        self._image = image
        self._places: dict[Tile, tuple[str, int, int] | tuple[()]] = {}

    def ranges_of(self, tiles: Iterable[Tile]) -> dict[str, list[Range]]:
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

    def _place(self, tile: Tile) -> tuple[str, int, int] | tuple[()]:
        frame = frame_number(self._image, tile)
        if frame < 0:
            return ()
        reader = self._image._get_reader(frame)  # noqa: SLF001 - see the class' docstring
        offset, length = reader.frame_index[frame - reader.frame_offset]
        return reader.filepath.name, int(offset), int(length)


def open_ranges_slide(
    claim: Claim, read_ranges: ReadRanges, report: Callable[[tuple[str, ...]], SourceReport]
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
    blocks, frames = PieceCache(_BLOCKS_BOUND), PieceCache(_FRAMES_BOUND)
    files = {instance.id: RangeFile(instance, guard.read, blocks, frames) for instance in volumes_of(claim)}
    notes = check_slide([read_header(RangeStream(file)) for file in files.values()], claim.parameters)
    try:
        wsi = WsiDicom.open(paths_of(files), settings=OPENING)
    except WSIDICOM_ERRORS as error:
        guard.raise_failure()
        raise incomplete(len(files), len(files)) from error
    try:
        guard.raise_failure()
        check_complete(wsi, files)
        return RangesSlide(wsi, files, lambda: report(notes))
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
