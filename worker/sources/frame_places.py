# SPDX-License-Identifier: Apache-2.0
"""Where the frames of a level lie in its files.

wsidicom's readers and their frame index are private to wsidicom 0.36: the tests hold what is read through
them to what its public `read_tile` returns.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from wsidicom.file.io.frame_index.frame_index import FrameIndex
from wsidicom.file.io.frame_index.pixel_data import PixelDataFrameIndexParser
from wsidicom.file.io.wsidicom_reader import WsiDicomReader
from wsidicom.file.wsidicom_file_image_data import WsiDicomFileImageData

from clam_core.slides import DAMAGED
from worker.contract import InstanceRef
from worker.sources.errors import IncompleteSlideError, TruncatedSlideError
from worker.sources.prefetching import Tile, frame_number
from worker.sources.range_files import Range, RangeFile

AskFrames = Callable[[InstanceRef], list[Range] | None]
"""Asks the server where the frames of an instance lie, as `RangesClient.frames` does."""

Place = tuple[str, Range]
"""A file and the bytes of a frame in it."""


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
        self._places: dict[Tile, Place | None] = {}
        self._lock = threading.Lock()
        self._prepared: set[str] = set()

    def ranges_of(self, tiles: Iterable[Tile]) -> dict[str, list[Range]]:
        """Return the byte ranges of tiles by the file that holds them; sparse tiles have none."""
        ranges: dict[str, list[Range]] = defaultdict(list)
        for tile in tiles:
            if tile not in self._places:
                self._places[tile] = self._place(tile)
            place = self._places[tile]
            if place is not None:
                ranges[place[0]].append(place[1])
        return ranges

    def _place(self, tile: Tile) -> Place | None:
        frame = frame_number(self._image, tile)
        if frame < 0:
            return None
        reader = self._image._get_reader(frame)  # noqa: SLF001 - see the module's docstring
        name = reader.filepath.name
        try:
            with self._lock:
                if name not in self._prepared:
                    self._prepare(reader, self._files[name])
                    self._prepared.add(name)
            return name, reader.frame_index[frame - reader.frame_offset]
        except DAMAGED as error:
            raise TruncatedSlideError(
                "Where the slide's tiles lie cannot be read: the file is damaged, or its upload was cut "
                "short; store the slide again."
            ) from error

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
