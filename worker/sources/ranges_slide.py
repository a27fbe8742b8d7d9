# SPDX-License-Identifier: Apache-2.0
"""A slide read straight out of Orthanc's storage, frame by frame, in few requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from wsidicom import WsiDicom

from clam_core.slides import OPENING, WSIDICOM_ERRORS
from worker.contract import Claim, InstanceRef
from worker.preflight import check_slide
from worker.sources.filesystem import paths_of
from worker.sources.frame_places import AskFrames, FramePlaces
from worker.sources.headers import read_header
from worker.sources.prefetching import PrefetchingSlide, Tile
from worker.sources.range_files import PieceCache, Range, RangeFile, RangeStream, ReadRanges
from worker.sources.source import SourceReport, Verified
from worker.sources.volumes import check_complete, incomplete, volumes_of

_BLOCKS_BOUND = 64 * 1024 * 1024
_FRAMES_BOUND = 128 * 1024 * 1024


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
        self._files = files
        self._report = report
        self._places = [FramePlaces(image, files, ask_frames) for image in self._images]

    def source_report(self) -> SourceReport:
        """Say how the slide was read, and what it cost so far."""
        return self._report()

    def _fetch(self, level: int, tiles: Sequence[Tile]) -> None:
        for file, ranges in self._places[level].ranges_of(tiles).items():
            self._files[file].fetch_frames(ranges)


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
        return RangesSlide(wsi, files, lambda: report(notes), ask_frames)
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
