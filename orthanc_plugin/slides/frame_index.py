# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the frames of a stored slide lie, found without reading the frames.

A slide without an offset table costs a distant reader a round trip per frame; here it costs a small `pread`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Reader = Callable[[int, int], bytes]
"""Returns up to `length` bytes at `offset`."""

MAX_FRAMES = 4_000_000
_BLOCK = 64 * 1024
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 16
_ITEM = (0xFFFE, 0xE000)
_ITEM_END = (0xFFFE, 0xE00D)
_SEQUENCE_END = (0xFFFE, 0xE0DD)
_PIXEL_DATA = (0x7FE0, 0x0010)
_TRANSFER_SYNTAX = (0x0002, 0x0010)
_SAMPLES = (0x0028, 0x0002)
_FRAMES = (0x0028, 0x0008)
_ROWS = (0x0028, 0x0010)
_COLUMNS = (0x0028, 0x0011)
_BITS = (0x0028, 0x0100)
_WANTED = {_TRANSFER_SYNTAX, _SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS}
_IMPLICIT_LITTLE = b"1.2.840.10008.1.2"
_NOT_READ_HERE = {b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"}

# PS3.5 section 7.1.2: these carry two reserved bytes and a length of 32 bits.
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}

Tag = tuple[int, int]


class FrameIndexError(Exception):
    """Where the frames lie cannot be told; the sentence says why."""


@dataclass(frozen=True)
class FrameIndex:
    """Offset and length of every frame in its file, in bytes, in the order of the frames."""

    transfer_syntax: str
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class _Element:
    tag: Tag
    start: int
    length: int


class _File:
    """Small reads of a file, served from the block they fall into."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._start = 0
        self._block = b""

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes."""
        inside = offset - self._start
        if inside < 0 or inside + length > len(self._block):
            self._block, self._start, inside = self._read(offset, max(length, _BLOCK)), offset, 0
        found = self._block[inside : inside + length]
        if len(found) != length:
            raise FrameIndexError("The file ends in the middle of its header.")
        return found


def frame_index(read: Reader) -> FrameIndex:
    """Return where the frames of a DICOM file lie.

    Compressed frames are found by the items they are wrapped in (DICOM PS3.5 annex A.4), which holds with an
    empty, a basic and an extended offset table alike; uncompressed ones by their size.

    Parameters
    ----------
    read
        Reads the file.

    Raises
    ------
    FrameIndexError
        Where the file is no DICOM file with frames, or a frame lies in several pieces.
    """
    file = _File(read)
    if file.bytes_at(128, 4) != b"DICM":
        raise FrameIndexError("The file is no DICOM file.")
    values, pixels = _header(file)
    syntax = values.get(_TRANSFER_SYNTAX, b"").rstrip(b"\0 ")
    count = _number_of_frames(values)
    if pixels.length == _UNDEFINED:
        places = _fragments(read, pixels.start, count)
    else:
        places = _equal_parts(pixels, count, values)
    offsets, lengths = zip(*places) if places else ((), ())
    return FrameIndex(syntax.decode("ascii", "replace"), offsets, lengths)


def _number_of_frames(values: dict[Tag, bytes]) -> int:
    text = values.get(_FRAMES, b"1").strip(b"\0 ") or b"1"
    if not text.isdigit() or int(text) > MAX_FRAMES:
        raise FrameIndexError(f"NumberOfFrames is not a number up to {MAX_FRAMES}.")
    return int(text)


def _header(file: _File) -> tuple[dict[Tag, bytes], _Element]:
    """Return the values wanted of the header and the element that holds the pixels."""
    values: dict[Tag, bytes] = {}
    position = 132
    explicit = True
    while True:
        if position == 132 or file.bytes_at(position, 2) != b"\x02\x00":
            syntax = values.get(_TRANSFER_SYNTAX, b"").rstrip(b"\0 ")
            if syntax in _NOT_READ_HERE:
                raise FrameIndexError("Big endian and deflated files are not read here.")
            explicit = syntax != _IMPLICIT_LITTLE
        element = _element(file, position, explicit=explicit)
        if element.tag == _PIXEL_DATA:
            return values, element
        if element.tag > _PIXEL_DATA:
            raise FrameIndexError("The file holds no pixels.")
        if element.tag in _WANTED and element.length < _BLOCK:
            values[element.tag] = file.bytes_at(element.start, element.length)
        position = _end(file, element, explicit=explicit, depth=0)


def _element(file: _File, position: int, *, explicit: bool) -> _Element:
    group, number = struct.unpack("<HH", file.bytes_at(position, 4))
    if explicit and group != _ITEM[0]:
        representation = file.bytes_at(position + 4, 2)
        if representation not in _LONG_VRS:
            (short,) = struct.unpack("<H", file.bytes_at(position + 6, 2))
            return _Element((group, number), position + 8, short)
        position += 4
    (length,) = struct.unpack("<I", file.bytes_at(position + 4, 4))
    return _Element((group, number), position + 8, length)


def _end(file: _File, element: _Element, *, explicit: bool, depth: int) -> int:
    """Return where an element ends; one of undefined length is walked through."""
    if element.length != _UNDEFINED:
        return element.start + element.length
    if depth > _DEEPEST:
        raise FrameIndexError("The header is nested too deeply.")
    position = element.start
    while True:
        inner = _element(file, position, explicit=explicit)
        if inner.tag in {_ITEM_END, _SEQUENCE_END}:
            return inner.start
        position = _end(file, inner, explicit=explicit, depth=depth + 1)


def _fragments(read: Reader, start: int, count: int) -> list[tuple[int, int]]:
    places = list(_items(read, start))[1:]  # the first is the basic offset table
    if len(places) != count:
        raise FrameIndexError(
            f"{count} frames lie in {len(places)} pieces: only files with one piece a frame have an index."
        )
    return places


def _items(read: Reader, position: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of every item of encapsulated pixels."""
    for _ in range(MAX_FRAMES + 2):
        head = read(position, 8)
        if len(head) != 8:
            raise FrameIndexError("The file ends in the middle of its frames.")
        group, number, length = struct.unpack("<HHI", head)
        if (group, number) == _SEQUENCE_END:
            return
        if (group, number) != _ITEM or length == _UNDEFINED:
            raise FrameIndexError("The frames are not wrapped as DICOM wants it.")
        yield position + 8, length
        position += 8 + length
    raise FrameIndexError(f"There are more than {MAX_FRAMES} pieces of frames.")


def _equal_parts(pixels: _Element, count: int, values: dict[Tag, bytes]) -> list[tuple[int, int]]:
    rows, columns, samples, bits = (_unsigned(values, tag) for tag in (_ROWS, _COLUMNS, _SAMPLES, _BITS))
    length = rows * columns * samples * bits // 8
    if bits % 8 or length < 1 or not 0 <= pixels.length - count * length <= 1:
        raise FrameIndexError("The uncompressed frames do not add up to the pixels.")
    return [(pixels.start + number * length, length) for number in range(count)]


def _unsigned(values: dict[Tag, bytes], tag: Tag) -> int:
    value = values.get(tag, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else 0
