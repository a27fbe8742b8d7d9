# SPDX-License-Identifier: Apache-2.0
"""What JPEG frames really are: the header of their file may have been taken over from another level.

Aperio's tiles are RGB, the levels that are added to them YCbCr, and wsidicom 0.36 gives both the header of
the first. A reader that believes the header then shows glass as salmon, and finds tissue everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

_START_OF_SCAN = 0xDA
_FILL = 0xFF
_STARTS_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended and progressive (ITU-T T.81, table B.1)."""
_APP0, _APP14 = 0xE0, 0xEE
_TRANSFORM = 11
"""Of the Adobe marker: 0 for RGB, 1 for YCbCr."""


def is_ycbcr(frame: bytes) -> bool | None:
    """Return whether a JPEG frame of three components says that they are YCbCr, as decoders understand it.

    A JFIF marker says so (JFIF 1.02), an Adobe marker by its transform, whichever comes first; without them
    components that are called R, G and B are those.

    Returns
    -------
    bool or None
        False where it says that they are RGB; None where it does not say.
    """
    named_rgb = False
    for marker, content in _segments(frame):
        if marker == _APP0 and content.startswith(b"JFIF"):
            return True
        if marker == _APP14 and content.startswith(b"Adobe") and len(content) > _TRANSFORM:
            return content[_TRANSFORM] != 0
        if marker in _STARTS_OF_FRAME:
            # Aperio's tables, and the Adobe marker with them, come after it.
            named_rgb = content[6:15:3] == b"RGB"
    return False if named_rgb else None


def colours_of_jpeg(frame: bytes) -> str | None:
    """Return the PhotometricInterpretation of a JPEG frame of three components, by what it says itself.

    Returns
    -------
    str or None
        ``RGB``, ``YBR_FULL`` or ``YBR_FULL_422`` (PS3.5, 8.2.1); None where it does not say.
    """
    ycbcr = is_ycbcr(frame)
    if ycbcr is None:
        return None
    if not ycbcr:
        return "RGB"
    return "YBR_FULL" if _sampling(frame) == 0x11 else "YBR_FULL_422"


def _sampling(frame: bytes) -> int | None:
    """Return the sampling factors of the first component."""
    starts = (content for marker, content in _segments(frame) if marker in _STARTS_OF_FRAME)
    start = next(starts, b"")
    return start[7] if len(start) > 7 else None


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of what comes before the picture itself (ITU-T T.81, B.1.1.4)."""
    position = 2
    while position + 4 <= len(frame) and frame[position + 1] != _START_OF_SCAN:
        if frame[position + 1] == _FILL:
            position += 1
            continue
        length = int.from_bytes(frame[position + 2 : position + 4], "big")
        yield frame[position + 1], frame[position + 4 : position + 2 + length]
        position += 2 + length
