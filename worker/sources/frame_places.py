# SPDX-License-Identifier: Apache-2.0
"""Where the frames of a level lie in its files.

wsidicom's readers and their frame index are private to wsidicom 0.36: the tests hold what is read through
them to what its public `read_tile` returns.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from wsidicom.file.io.frame_index.frame_index import FrameIndex
from wsidicom.file.io.frame_index.pixel_data import PixelDataFrameIndexParser
from wsidicom.file.io.wsidicom_reader import WsiDicomReader
from wsidicom.file.wsidicom_file_image_data import WsiDicomFileImageData

from clam_core.slides import DAMAGED
from worker.api.contract import InstanceRef

from .errors import IncompleteSlideError
from .prefetching import FrameNumbers, Tile, places_unknown
from .range_files import Range, RangeFile

AskFrames = Callable[[InstanceRef], list[Range] | None]
"""Asks the server where the frames of an instance lie, as `RangesClient.frames` does."""

Place = tuple[RangeFile, Range]
"""A file and the bytes of a frame in it."""


@dataclass(frozen=True)
class _Part:
    """The frames of a level from `first` up to `end` and the file that holds them."""

    first: int
    end: int
    file: RangeFile
    index: FrameIndex


class FramePlaces:
    """Where the frames of one level lie.

    Parameters
    ----------
    image
        wsidicom's image of the level.
    files
        The slide's instances by Orthanc id.
    ask_frames
        Asks the server where the frames of an instance lie.
    """

    def __init__(self, image: object, files: Mapping[str, RangeFile], ask_frames: AskFrames) -> None:
        if not isinstance(image, WsiDicomFileImageData):
            raise IncompleteSlideError("A level of the slide is not stored as DICOM files.")
        self._image = image
        self._files = files
        self._ask_frames = ask_frames
        self._lock = threading.Lock()
        self._numbers = FrameNumbers(image)
        self._parts: list[_Part] = []

    def place(self, tile: Tile) -> Place | None:
        """Return where a tile lies; None where it is stored nowhere (sparse).

        Raises
        ------
        TruncatedSlideError
            If the file does not say.
        """
        number = self._numbers.of(tile)
        if number < 0:
            return None
        try:
            part = self._known_part(number) or self._new_part(number)
        except DAMAGED as error:
            raise places_unknown() from error
        return part.file, part.index[number - part.first]

    def ranges_of(self, tiles: Iterable[Tile]) -> dict[RangeFile, list[Range]]:
        """Return the byte ranges of tiles by the file that holds them; sparse tiles have none."""
        ranges: dict[RangeFile, list[Range]] = defaultdict(list)
        for place in map(self.place, tiles):
            if place is not None:
                ranges[place[0]].append(place[1])
        return ranges

    def _known_part(self, number: int) -> _Part | None:
        return next((part for part in self._parts if part.first <= number < part.end), None)

    def _new_part(self, number: int) -> _Part:
        with self._lock:
            return self._known_part(number) or self._read_part(number)

    def _read_part(self, number: int) -> _Part:
        reader = self._image._get_reader(number)  # noqa: SLF001 - see the module's docstring
        file = self._files[reader.filepath.name]
        self._prepare(reader, file)
        first = reader.frame_offset
        part = _Part(first, first + reader.frame_count, file, reader.frame_index)
        self._parts.append(part)
        return part

    def _prepare(self, reader: WsiDicomReader, file: RangeFile) -> None:
        """Take the server's index where the file has no offset table: finding the frames reads all of it."""
        file.is_encapsulated = reader.transfer_syntax.is_encapsulated
        parser = reader._frame_index_parser_for_stream  # noqa: SLF001
        if type(parser) is not PixelDataFrameIndexParser:
            return
        found = self._ask_frames(file.instance)
        if found is not None and len(found) == reader.frame_count:
            offsets, lengths = np.array(found, dtype=np.int64).T
            reader._frame_index = FrameIndex(offsets, lengths)  # noqa: SLF001
