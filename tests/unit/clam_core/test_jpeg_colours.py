# SPDX-License-Identifier: Apache-2.0
"""What JPEG frames say of their colours, and that they are shown in these whatever their header says."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from clam_core.slides import WsiDicomSlide
from clam_core.slides.jpeg_colours import colours_of_jpeg
from tests.support.odd_dicom import ENCODINGS, HEIGHT, WIDTH, tiles, tissue, write_slide

Pixels = np.ndarray

APP0, APP14, START_OF_FRAME, START_OF_SCAN = 0xE0, 0xEE, 0xC0, 0xDA


def jpeg(**options: object) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(stored, "JPEG", **options)
    return stored.getvalue()


def adobe(transform: int) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


def segments(frame: bytes) -> list[bytes]:
    """Return the segments of a frame up to its scan, which is the last of them."""
    found, position = [], 2
    while frame[position + 1] != START_OF_SCAN:
        end = position + 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
        found.append(frame[position:end])
        position = end
    return [*found, frame[position:]]


def without_markers(frame: bytes) -> bytes:
    return frame[:2] + b"".join(part for part in segments(frame) if part[1] not in {APP0, APP14})


def with_marker_before_scan(frame: bytes, marker: bytes) -> bytes:
    *before, scan = segments(without_markers(frame))
    return frame[:2] + b"".join(before) + marker + scan


def numbered(frame: bytes) -> bytes:
    """Return a frame whose components are called 1, 2 and 3, as those of most frames."""
    parts = []
    for part in segments(without_markers(frame)):
        changed = bytearray(part)
        if part[1] == START_OF_FRAME:
            changed[10:19:3] = b"\1\2\3"
        elif part[1] == START_OF_SCAN:
            changed[5:11:2] = b"\1\2\3"
        parts.append(bytes(changed))
    return frame[:2] + b"".join(parts)


YCBCR, RGB = jpeg(subsampling=1), jpeg(keep_rgb=True)


@pytest.mark.parametrize(
    ("frame", "colours"),
    [
        (jpeg(subsampling=0), "YBR_FULL"),
        (YCBCR, "YBR_FULL_422"),
        (jpeg(subsampling=2), "YBR_FULL_422"),
        (RGB, "RGB"),
        (without_markers(RGB), "RGB"),
        (YCBCR[:2] + adobe(0) + YCBCR[2:], "RGB"),
        (with_marker_before_scan(YCBCR, adobe(0)), "RGB"),
        (with_marker_before_scan(YCBCR, adobe(1)), "YBR_FULL_422"),
        (YCBCR[:2] + b"\xff\xff" + YCBCR[2:], "YBR_FULL_422"),
        (without_markers(YCBCR), None),
        (numbered(RGB), None),
        (b"\xff\xd8\xff\xda\x00\x02", None),
        (b"", None),
    ],
    ids=[
        "444",
        "422",
        "420",
        "rgb",
        "components called RGB",
        "adobe before jfif",
        "adobe rgb behind the tables",
        "adobe ycbcr behind the tables",
        "fill bytes",
        "silent ycbcr",
        "silent rgb",
        "scan only",
        "empty",
    ],
)
def test_markers_tell_the_colours(frame: bytes, colours: str | None) -> None:
    assert colours_of_jpeg(frame) == colours


Encode = Callable[[Pixels], bytes]
in_ycbcr: Encode = ENCODINGS["jpeg"].encode
in_rgb: Encode = ENCODINGS["jpeg-rgb"].encode


def shown(folder: Path, header: str, frames: list[bytes]) -> Pixels:
    """Return the picture of which `frames` are the tiles, under a header of given colours."""
    (path,) = write_slide(folder, frames=frames)
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = header
    dataset.save_as(path)
    with WsiDicomSlide.open(path) as slide:
        return slide.read_region((0, 0), 0, (WIDTH, HEIGHT))


def assert_tissue(picture: Pixels) -> None:
    """See that colours are those of the tissue; salmon for pink is 56 away."""
    assert np.abs(picture.astype(int) - tissue()).mean() < 5


@pytest.mark.parametrize(
    ("header", "encode"),
    [
        ("RGB", in_ycbcr),
        ("RGB", in_rgb),
        ("RGB", lambda tile: without_markers(in_rgb(tile))),
        ("RGB", lambda tile: numbered(in_rgb(tile))),
        ("RGB", lambda tile: with_marker_before_scan(in_ycbcr(tile), adobe(1))),
        ("YBR_FULL_422", in_ycbcr),
        ("YBR_FULL_422", in_rgb),
        ("YBR_FULL_422", lambda tile: without_markers(in_rgb(tile))),
        ("YBR_FULL_422", lambda tile: with_marker_before_scan(numbered(in_rgb(tile)), adobe(0))),
        ("YBR_FULL_422", lambda tile: without_markers(in_ycbcr(tile))),
        ("YBR_FULL", in_rgb),
    ],
    ids=[
        "rgb: ycbcr by jfif",
        "rgb: rgb by adobe",
        "rgb: rgb by names",
        "rgb: silent, so rgb",
        "rgb: ycbcr by adobe",
        "ybr: ycbcr by jfif",
        "ybr: rgb by adobe",
        "ybr: rgb by names",
        "ybr: rgb by adobe behind the tables",
        "ybr: silent, so ycbcr",
        "ybr full: rgb by adobe",
    ],
)
def test_frames_are_shown_in_their_own_colours_whatever_the_header_says(
    header: str, encode: Encode, tmp_path: Path
) -> None:
    assert_tissue(shown(tmp_path, header, [encode(tile) for tile in tiles(tissue())]))


def test_a_frame_of_other_colours_than_the_rest_of_its_level_changes_nothing_for_them(
    tmp_path: Path,
) -> None:
    frames = [(in_ycbcr if number == 0 else in_rgb)(tile) for number, tile in enumerate(tiles(tissue()))]
    assert_tissue(shown(tmp_path, "RGB", frames))
