# SPDX-License-Identifier: Apache-2.0
"""What colours a file's frames really have, for its header."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.uid import JPEGBaseline8Bit

from clam_core.slides import colours_of_jpeg

_LONG_ELEMENT_HEADER = 12
"""Bytes of tag, VR, reserved and length before encapsulated pixel data (PS3.5, 7.1.2)."""


def photometric_interpretation(file: Path) -> str | None:
    """Return the PhotometricInterpretation that the first JPEG frame of a DICOM file has.

    Returns
    -------
    str or None
        As of `colours_of_jpeg`; None also where the file is not JPEG Baseline.
    """
    with file.open("rb") as stored:
        header = dcmread(stored, stop_before_pixels=True)
        if header.file_meta.TransferSyntaxUID != JPEGBaseline8Bit or header.SamplesPerPixel != 3:
            return None
        stored.seek(_LONG_ELEMENT_HEADER, 1)
        parse_basic_offsets(stored)
        return colours_of_jpeg(next(generate_fragments(stored)))
