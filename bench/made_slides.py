# SPDX-License-Identifier: Apache-2.0
"""Large DICOM slides for benchmarks: one real slide's header, and its tissue tiled up."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import generate_uid

from clam_core.slides import WsiDicomSlide
from tests.support.dicom_files import volume_file

MPP = 0.499
_DIFFERENT = 64
"""Tiles that are cut out of the tissue; they come again and again."""
_COLUMN, _ROW = 0x01020304, 0x05060708
_PER_FRAME = Tag("PerFrameFunctionalGroupsSequence")


def write_tissue(path: Path, *, tiles: int, tile_px: int, quality: int = 85) -> Path:
    """Write a slide of `tiles` x `tiles` tiles of real tissue, JPEG 4:2:2; return the file."""
    frames = _tissue_frames(tile_px, quality)
    dataset = _header(tiles, tiles, tile_px)
    dataset.PixelData = encapsulate([frames[number % _DIFFERENT] for number in range(tiles * tiles)])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    return path


def _tissue_frames(tile_px: int, quality: int) -> list[bytes]:
    places = np.random.default_rng(0)
    with WsiDicomSlide.open(volume_file()) as slide:
        base = slide.levels[0]
        corners = [
            (int(places.integers(0, base.width - tile_px)), int(places.integers(0, base.height - tile_px)))
            for _ in range(_DIFFERENT)
        ]
        return [_jpeg(slide.read_region(corner, 0, (tile_px, tile_px)), quality) for corner in corners]


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=1)
    return buffer.getvalue()


def _header(columns: int, rows: int, tile_px: int) -> FileDataset:
    dataset = pydicom.dcmread(volume_file())
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Rows = dataset.Columns = tile_px
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = columns * tile_px, rows * tile_px
    dataset.ImagedVolumeWidth = columns * tile_px * MPP / 1000
    dataset.ImagedVolumeHeight = rows * tile_px * MPP / 1000
    dataset.NumberOfFrames = columns * rows
    return dataset


def write_many_frames(path: Path, *, columns: int, rows: int, sparse: bool) -> Path:
    """Write a slide of very many very small tiles, TILED_FULL or TILED_SPARSE; return the file."""
    dataset = _header(columns, rows, 16)
    frame = _jpeg(np.full((16, 16, 3), 200, np.uint8), 50)
    dataset.PixelData = encapsulate([frame] * (columns * rows))
    dataset["PixelData"].is_undefined_length = True
    if not sparse:
        dataset.save_as(path)
        return path
    dataset.DimensionOrganizationType = "TILED_SPARSE"
    dataset.PerFrameFunctionalGroupsSequence = [_item()]
    dataset.save_as(path)
    path.write_bytes(_with_positions(path.read_bytes(), columns, rows))
    return path


def _item() -> Dataset:
    position, groups = Dataset(), Dataset()
    position.ColumnPositionInTotalImagePixelMatrix, position.RowPositionInTotalImagePixelMatrix = (
        _COLUMN,
        _ROW,
    )
    for axis in "XYZ":
        setattr(position, f"{axis}OffsetInSlideCoordinateSystem", 0)
    groups.PlanePositionSlideSequence = [position]
    return groups


def _with_positions(file: bytes, columns: int, rows: int) -> bytes:
    """Return a file whose only item of the per-frame groups is repeated for every tile.

    pydicom takes minutes to write so many: the bytes of one item are repeated, and the positions in them set.
    """
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, _item())
    content = buffer.getvalue()
    one = struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    head = struct.pack("<HH2sHI", _PER_FRAME.group, _PER_FRAME.element, b"SQ", 0, len(one))
    before, after = file.split(head + one)
    items = np.tile(np.frombuffer(one, np.uint8), (columns * rows, 1))
    numbers = np.arange(columns * rows)
    for value, at in (
        (numbers % columns * 16 + 1, one.index(struct.pack("<i", _COLUMN))),
        (numbers // columns * 16 + 1, one.index(struct.pack("<i", _ROW))),
    ):
        items[:, at : at + 4] = value.astype("<i4").view(np.uint8).reshape(-1, 4)
    long_head = struct.pack("<HH2sHI", _PER_FRAME.group, _PER_FRAME.element, b"SQ", 0, items.size)
    return b"".join((before, long_head, items.tobytes(), after))
