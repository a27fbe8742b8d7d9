# SPDX-License-Identifier: Apache-2.0
"""DICOM slides with several levels, made from the real one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from clam_core.slides import Pixels, WsiDicomSlide
from tests.support.dicom_files import volume_file

TILE = 240
"""The base level's."""


def pyramid_folder(
    folder: Path, *, factors: tuple[int, ...] = (4, 16), tiles: Mapping[int, int] | None = None
) -> Path:
    """Write the real slide's VOLUME and smaller levels beside it; return the folder.

    `tiles` gives levels, by their factor, tiles of another side than the base level's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base = Path(shutil.copy(volume_file(), folder / "level-1.dcm"))
    with WsiDicomSlide.open(base) as slide:
        whole = slide.read_region((0, 0), 0, (slide.levels[0].width, slide.levels[0].height))
    for factor in factors:
        side = (tiles or {}).get(factor, TILE)
        _write_level(base, folder / f"level-{factor}.dcm", _shrink(whole, factor), factor, side)
    return folder


def headers_of(folder: Path) -> list[pydicom.Dataset]:
    """Return the headers of all VOLUME instances in a folder, in no particular order."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.glob("*.dcm"))]
    return [header for header in headers if "VOLUME" in header.ImageType]


def _shrink(pixels: Pixels, factor: int) -> Pixels:
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    smaller: Pixels = blocks.mean(axis=(1, 3)).astype(np.uint8)
    return smaller


def _write_level(base: Path, path: Path, pixels: np.ndarray, factor: int, side: int) -> None:
    level = pydicom.dcmread(base)
    height, width = pixels.shape[:2]
    level.SOPInstanceUID = level.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    level.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    level.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    shared = level.SharedFunctionalGroupsSequence[0]
    shared.WholeSlideMicroscopyImageFrameTypeSequence[0].FrameType = level.ImageType
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.000499 * factor, 0.000499 * factor]
    level.InstanceNumber = factor
    level.TotalPixelMatrixColumns, level.TotalPixelMatrixRows = width, height
    level.Rows = level.Columns = side
    tiles = _tiles(pixels, side)
    level.NumberOfFrames = len(tiles)
    level.PhotometricInterpretation = "RGB"
    level.PixelData = b"".join(tile.tobytes() for tile in tiles)
    level["PixelData"].VR = "OB"
    level["PixelData"].is_undefined_length = False
    level.save_as(path)


def _tiles(pixels: np.ndarray, side: int) -> list[np.ndarray]:
    rows, columns = -(-pixels.shape[0] // side), -(-pixels.shape[1] // side)
    padded = np.full((rows * side, columns * side, 3), 255, np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return [
        padded[row * side : (row + 1) * side, column * side : (column + 1) * side]
        for row in range(rows)
        for column in range(columns)
    ]
