# SPDX-License-Identifier: AGPL-3.0-or-later
"""ImageType out of the first bytes of a DICOM file: Orthanc would read and parse the whole slide for it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEAD_BYTES = 4096
"""ImageType stands in the first kilobyte; a file whose header is longer before it is left to Orthanc."""

_META_START = 132
_META_GROUP = 0x0002
_TRANSFER_SYNTAX = (0x0002, 0x0010)
_IMAGE_TYPE = (0x0008, 0x0008)
_IMPLICIT_LITTLE = b"1.2.840.10008.1.2"
_NOT_READ_HERE = {b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99", b"1.2.840.113619.5.2"}
"""Big endian, deflated, GE's private one; everything else is explicit or implicit little endian."""

# PS3.5 section 7.1.2: these carry two reserved bytes and a length of 32 bits.
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED_LENGTH = 0xFFFFFFFF

Element = tuple[tuple[int, int], bytes]


def image_type(head: bytes) -> tuple[str, ...] | None:
    """Return the values of ImageType (0008,0008): ``()`` where it is absent, None where `head` does not tell.

    Parameters
    ----------
    head
        The first bytes of a DICOM file (`HEAD_BYTES` are enough).
    """
    if head[128:132] != b"DICM":
        return None
    try:
        return _image_type(head)
    except (struct.error, UnicodeDecodeError, _UnreadableError):
        return None


class _UnreadableError(Exception):
    """The bytes are not understood here; Orthanc may understand them."""


def _image_type(head: bytes) -> tuple[str, ...]:
    position = _META_START
    syntax = b""
    while struct.unpack_from("<H", head, position)[0] == _META_GROUP:
        tag, value, position = _element(head, position, explicit=True)
        if tag == _TRANSFER_SYNTAX:
            syntax = value.rstrip(b"\0 ")
    if not syntax or syntax in _NOT_READ_HERE:
        raise _UnreadableError
    for tag, value in _elements(head, position, explicit=syntax != _IMPLICIT_LITTLE):
        if tag == _IMAGE_TYPE:
            return split_values(value)
        if tag > _IMAGE_TYPE:
            return ()
    raise _UnreadableError


def split_values(value: bytes) -> tuple[str, ...]:
    r"""Return the values of a multi-valued text attribute (``A\B\C``, padded to an even length)."""
    text = value.decode("ascii").rstrip("\0 ")
    return tuple(part.strip() for part in text.split("\\")) if text else ()


def _elements(head: bytes, position: int, *, explicit: bool) -> Iterator[Element]:
    while True:
        tag, value, position = _element(head, position, explicit=explicit)
        yield tag, value


def _element(head: bytes, position: int, *, explicit: bool) -> tuple[tuple[int, int], bytes, int]:
    group, number = struct.unpack_from("<HH", head, position)
    if explicit:
        length, start = _explicit_length(head, position)
    else:
        length, start = struct.unpack_from("<I", head, position + 4)[0], position + 8
    end = start + length
    if (group, number) > _IMAGE_TYPE:
        return (group, number), b"", end
    if length == _UNDEFINED_LENGTH or end > len(head):
        raise _UnreadableError
    return (group, number), head[start:end], end


def _explicit_length(head: bytes, position: int) -> tuple[int, int]:
    representation = head[position + 4 : position + 6]
    if not representation.isalpha():
        raise _UnreadableError
    if representation in _LONG_VRS:
        return struct.unpack_from("<I", head, position + 8)[0], position + 12
    return struct.unpack_from("<H", head, position + 6)[0], position + 8
