# SPDX-License-Identifier: Apache-2.0
"""What the JPEG frames of a file really are: their header may have been taken over from another level.

Aperio's tiles are RGB, the levels that are added to them YCbCr, and wsidicom 0.36 gives both the header of
the first. A reader that believes the header then shows glass as salmon, and finds tissue everywhere.
"""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.uid import JPEGBaseline8Bit

_START_OF_FRAME, _START_OF_SCAN = 0xC0, 0xDA
_APP0, _APP14 = 0xE0, 0xEE
_LONG_ELEMENT_HEADER = 12
"""Bytes of tag, VR, reserved and length before encapsulated pixel data (PS3.5, 7.1.2)."""


def photometric_interpretation(file: Path) -> str | None:
    """Return the PhotometricInterpretation that the first JPEG frame of a DICOM file has.

    Returns
    -------
    str or None
        ``RGB``, ``YBR_FULL`` or ``YBR_FULL_422`` (PS3.5, 8.2.1); None where the file is not JPEG Baseline or
        its frames do not say.
    """
    with file.open("rb") as stored:
        header = dcmread(stored, stop_before_pixels=True)
        if header.file_meta.TransferSyntaxUID != JPEGBaseline8Bit or header.SamplesPerPixel != 3:
            return None
        stored.seek(_LONG_ELEMENT_HEADER, 1)
        parse_basic_offsets(stored)
        return colours_of_jpeg(next(generate_fragments(stored)))


def colours_of_jpeg(frame: bytes) -> str | None:
    """Return what the markers of a JPEG frame of three components say of its colours.

    The Adobe marker's transform decides (0 RGB, 1 YCbCr); a JFIF marker means YCbCr (JFIF 1.02).
    """
    is_ycbcr: bool | None = None
    subsampled = True
    position = 2
    while position + 4 <= len(frame) and frame[position + 1] != _START_OF_SCAN:
        marker, length = frame[position + 1], int.from_bytes(frame[position + 2 : position + 4], "big")
        content = frame[position + 4 : position + 2 + length]
        if marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12:
            is_ycbcr = content[11] == 1
        elif marker == _APP0 and content.startswith(b"JFIF") and is_ycbcr is None:
            is_ycbcr = True
        elif marker == _START_OF_FRAME and len(content) >= 8:
            subsampled = content[7] != 0x11
        position += 2 + length
    if is_ycbcr is None:
        return None
    if not is_ycbcr:
        return "RGB"
    return "YBR_FULL_422" if subsampled else "YBR_FULL"
