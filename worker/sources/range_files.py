# SPDX-License-Identifier: Apache-2.0
"""Stored instances as files that can be read and sought in; what was fetched is kept for a while.

Two kinds of pieces are kept: blocks of 64 KiB, fetched when a reader walks through a header, and whole
frames, fetched in batches before a reader asks for them. Together they never exceed a bound.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Sequence

from worker.api.contract import InstanceRef

from .errors import FragmentedFramesError, TruncatedSlideError
from .piece_cache import PieceCache
from .shared_fetch import SharedFetch

BLOCK = 64 * 1024

_WALK_AFTER = 4
"""Misses one after the other that show that a reader walks through the file: an empty offset table makes it
look at every frame's header."""
_LONGEST_WALK = 64
"""Blocks that are then fetched at once, at most."""

_HEAD = struct.Struct("<II")
_ITEM_HEAD = _HEAD.size
_ITEM_TAG = 0xE000FFFE

Range = tuple[int, int]
"""Offset and length in bytes."""

ReadRanges = Callable[[InstanceRef, Sequence[Range]], list[memoryview]]
"""Reads ranges of an instance, as `RangesClient.read` does."""

Pieces = PieceCache[tuple[str, int], bytes]
"""Pieces of files by instance and offset."""


class RangeFile:
    """One stored instance.

    Parameters
    ----------
    instance
        The instance.
    read_ranges
        Reads its bytes.
    blocks, frames
        Where pieces are kept; shared by the files of one slide.

    Attributes
    ----------
    is_encapsulated
        Whether each frame is wrapped in an item, whose head is read along and checked.
    """

    def __init__(
        self, instance: InstanceRef, read_ranges: ReadRanges, blocks: Pieces, frames: Pieces
    ) -> None:
        self.instance = instance
        self._read_ranges = read_ranges
        self._blocks = blocks
        self._frames = frames
        self.is_encapsulated = False
        self._walk = _Walk()
        self._shared = SharedFetch(self._is_kept)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.instance.size

    def read(self, offset: int, length: int) -> bytes:
        """Read bytes, fewer only at the end of the file."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if length > 2 * BLOCK:
            return bytes(self._read_ranges(self.instance, [(offset, length)])[0])
        return self._read_blocks(offset, length)

    def frame(self, place: Range) -> bytes:
        """Return a frame that was fetched before, or fetch it now where it was dropped since.

        Raises
        ------
        TruncatedSlideError
            If it lies beyond the end of the file.
        """
        frame = self._frames.get((self.instance.id, place[0]))
        return frame if frame is not None else self._fetched([place])[0]

    def fetch_frames(self, places: Iterable[Range]) -> None:
        """Fetch the frames that are not kept yet, as many as possible in one call.

        A frame that another thread is fetching is waited for, not fetched twice.

        Raises
        ------
        TruncatedSlideError
            If a frame lies beyond the end of the file.
        """
        self._shared.fetch(places, self._fetched)

    def _fetched(self, places: Sequence[Range]) -> list[bytes]:
        end = max(offset + length for offset, length in places)
        if end > self.size:
            raise TruncatedSlideError(
                f"A stored image of the slide ends {end - self.size} bytes before its last tile: the upload "
                "was cut short, store the slide again."
            )
        head, content = (_ITEM_HEAD, _unwrapped) if self.is_encapsulated else (0, bytes)
        stored = [(offset - head, length + head) for offset, length in places]
        frames = [content(item) for item in self._read_ranges(self.instance, stored)]
        for (offset, _), frame in zip(places, frames, strict=True):
            self._frames.put((self.instance.id, offset), frame)
        return frames

    def _is_kept(self, place: Range) -> bool:
        return self._frames.get((self.instance.id, place[0])) is not None

    def _read_blocks(self, offset: int, length: int) -> bytes:
        first, last = offset // BLOCK, (offset + length - 1) // BLOCK
        blocks = {
            index: self._blocks.get((self.instance.id, index * BLOCK)) for index in range(first, last + 1)
        }
        missing = [index for index, block in blocks.items() if block is None]
        if missing:
            blocks.update(self._fetch_blocks([*missing, *self._ahead(missing)]))
        data = b"".join(blocks[index] or b"" for index in range(first, last + 1))
        start = offset - first * BLOCK
        return data[start : start + length]

    def _ahead(self, missing: list[int]) -> range:
        """Return the blocks that a reader who walks through the file will want next."""
        following = missing[-1] + 1
        count = self._walk.step(missing[0], following)
        return range(following, min(following + count, -(-self.size // BLOCK)))

    def _fetch_blocks(self, indices: Sequence[int]) -> dict[int, bytes]:
        ranges = [(index * BLOCK, min(BLOCK, self.size - index * BLOCK)) for index in indices]
        blocks = map(bytes, self._read_ranges(self.instance, ranges))
        fetched = dict(zip(indices, blocks, strict=True))
        for index, block in fetched.items():
            self._blocks.put((self.instance.id, index * BLOCK), block)
        return fetched


def _unwrapped(item: memoryview) -> bytes:
    """Return a frame without the head of its item (DICOM PS3.5 annex A.4).

    Raises
    ------
    FragmentedFramesError
        If the frame goes on in a further item: decoders take the head in between for pixels.
    """
    tag, length = _HEAD.unpack_from(item)
    if tag != _ITEM_TAG or length != len(item) - _ITEM_HEAD:
        raise FragmentedFramesError(
            "The tiles of the slide lie in several pieces each, or not where the file says: convert the "
            "slide again with `pathology-worker ingest`."
        )
    return bytes(item[_ITEM_HEAD:])


class _Walk:
    """Tells a reader who walks through a file from one who jumps."""

    def __init__(self) -> None:
        self._expected = -1
        self._steps = 0

    def step(self, first: int, following: int) -> int:
        """Note that blocks from `first` up to `following` were missed; return how many more to fetch.

        Twice as many with every miss that follows on the last one.
        """
        self._steps = self._steps + 1 if first == self._expected else 0
        ahead = (
            min(2 ** max(0, self._steps - _WALK_AFTER), _LONGEST_WALK) if self._steps >= _WALK_AFTER else 0
        )
        self._expected = following + ahead
        return ahead


class RangeStream(io.RawIOBase):
    """A read-only stream over a `RangeFile`."""

    def __init__(self, file: RangeFile) -> None:
        super().__init__()
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Read from the position on."""
        length = self._file.size - self._position if size is None or size < 0 else size
        data = self._file.read(self._position, length)
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
