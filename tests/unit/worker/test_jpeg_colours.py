# SPDX-License-Identifier: Apache-2.0
"""What JPEG frames say of their colours."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.dicom_files import volume_file
from worker.ingest.jpeg_colours import colours_of_jpeg, photometric_interpretation


def jpeg(**options: object) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(stored, "JPEG", **options)
    return stored.getvalue()


def adobe(transform: int) -> bytes:
    frame = jpeg()
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return frame[:2] + marker + frame[2:]


@pytest.mark.parametrize(
    ("frame", "colours"),
    [
        (jpeg(subsampling=0), "YBR_FULL"),
        (jpeg(subsampling=1), "YBR_FULL_422"),
        (jpeg(subsampling=2), "YBR_FULL_422"),
        (jpeg(keep_rgb=True), "RGB"),
        (adobe(0), "RGB"),
        (adobe(1), "YBR_FULL_422"),
        (b"\xff\xd8\xff\xda\x00\x02", None),
        (b"", None),
    ],
    ids=["444", "422", "420", "rgb", "adobe-rgb", "adobe-ycbcr", "silent", "empty"],
)
def test_markers_tell_the_colours(frame: bytes, colours: str | None) -> None:
    assert colours_of_jpeg(frame) == colours


def test_a_real_slide_is_what_its_header_says() -> None:
    assert photometric_interpretation(volume_file()) in {"RGB", "YBR_FULL_422"}
