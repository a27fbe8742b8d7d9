# SPDX-License-Identifier: Apache-2.0
"""One small picture of real tissue, stored in the many ways that DICOM has for a slide."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from clam_core.slides import WsiDicomSlide
from tests.support.dicom_files import volume_file

TILE = 96
WIDTH, HEIGHT = 430, 250
"""No whole number of tiles: 5 x 3 of them."""
COLUMNS, ROWS = 5, 3
SPARSE_ORDER = (14, 3, 0, 7, 8, 1, 12)
"""The tiles that a sparse slide has, in the order of its frames."""

DATA = Path(__file__).resolve().parents[1] / "data"

Pixels = np.ndarray


def tissue() -> Pixels:
    """Return real tissue, (HEIGHT, WIDTH, 3)."""
    with WsiDicomSlide.open(volume_file()) as slide:
        return slide.read_region((700, 900), 0, (WIDTH, HEIGHT))


def tiles(pixels: Pixels, side: int = TILE) -> list[Pixels]:
    """Return the tiles of a picture row by row, those at its edges filled up with white."""
    rows, columns = -(-pixels.shape[0] // side), -(-pixels.shape[1] // side)
    padded = np.full((rows * side, columns * side, 3), 255, np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return [
        np.ascontiguousarray(padded[row * side : (row + 1) * side, column * side : (column + 1) * side])
        for row in range(rows)
        for column in range(columns)
    ]


def _pillow(kind: str, **options: object) -> Callable[[Pixels], bytes]:
    def encode(tile: Pixels) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(tile).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


def _pydicom(syntax: UID) -> Callable[[Pixels], bytes]:
    def encode(tile: Pixels) -> bytes:
        single = Dataset()
        single.file_meta = pydicom.dataset.FileMetaDataset()
        single.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        single.SOPClassUID, single.SOPInstanceUID = generate_uid(), generate_uid()
        single.Rows, single.Columns = tile.shape[:2]
        single.SamplesPerPixel, single.PlanarConfiguration = 3, 0
        single.PhotometricInterpretation = "RGB"
        single.BitsAllocated = single.BitsStored = 8
        single.HighBit, single.PixelRepresentation = 7, 0
        single.PixelData = tile.tobytes()
        single.compress(syntax, generate_instance_uid=False)
        return next(pydicom.encaps.generate_frames(single.PixelData, number_of_frames=1))

    return encode


def _stored_htj2k(tile: Pixels) -> bytes:
    """Return one of two tiles that were encoded beforehand; which one hangs on what the tile shows."""
    return (DATA / f"htj2k-lossless-{int(tile.sum()) % 2}.j2c").read_bytes()


@dataclass(frozen=True)
class Encoding:
    """How a tile becomes a frame."""

    syntax: UID
    colours: str
    encode: Callable[[Pixels], bytes]
    lossy_method: str | None = None


ENCODINGS = {
    "uncompressed": Encoding(ExplicitVRLittleEndian, "RGB", Pixels.tobytes),
    "implicit": Encoding(ImplicitVRLittleEndian, "RGB", Pixels.tobytes),
    "jpeg": Encoding(
        JPEGBaseline8Bit, "YBR_FULL_422", _pillow("JPEG", quality=85, subsampling=1), "ISO_10918_1"
    ),
    "jpeg-rgb": Encoding(JPEGBaseline8Bit, "RGB", _pillow("JPEG", quality=85, keep_rgb=True), "ISO_10918_1"),
    "jpeg2000": Encoding(
        JPEG2000,
        "YBR_ICT",
        _pillow("JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[8], no_jp2=True),
        "ISO_15444_1",
    ),
    "jpeg2000-lossless": Encoding(JPEG2000Lossless, "YBR_RCT", _pillow("JPEG2000", no_jp2=True)),
    "htj2k": Encoding(HTJ2KLossless, "YBR_RCT", _stored_htj2k),
    "jpeg-ls": Encoding(JPEGLSLossless, "RGB", _pydicom(JPEGLSLossless)),
    "rle": Encoding(RLELossless, "RGB", _pydicom(RLELossless)),
}


ODD_STORAGE: dict[str, dict[str, Any]] = {
    **{name: {"encoding": name} for name in ENCODINGS},
    "no offsets": {"offsets": "empty"},
    "extended offsets": {"offsets": "extended"},
    "sparse": {"sparse": True},
    "sparse, no offsets": {"sparse": True, "offsets": "empty"},
    "sparse, uncompressed": {"sparse": True, "encoding": "uncompressed"},
    "concatenation": {"parts": 2},
    "sparse concatenation": {"parts": 3, "sparse": True},
}
"""Arguments of `write_slide` by what is odd."""


def write_slide(
    folder: Path,
    *,
    encoding: str = "jpeg",
    offsets: str = "basic",
    sparse: bool = False,
    parts: int = 1,
    fragments: int = 1,
    frames: Sequence[bytes] | None = None,
) -> list[Path]:
    """Write the picture as a slide of one level; return its files.

    Parameters
    ----------
    folder
        Where to.
    encoding
        One of `ENCODINGS`.
    offsets
        Offset table of encapsulated frames: ``empty``, ``basic`` or ``extended``.
    sparse
        Whether frames say where they lie, in a wild order and with holes.
    parts
        Instances of the concatenation; 1 for none.
    fragments
        Pieces in which each frame lies.
    """
    chosen = ENCODINGS[encoding]
    everything = [chosen.encode(tile) for tile in tiles(tissue())] if frames is None else list(frames)
    order = list(SPARSE_ORDER) if sparse else list(range(len(everything)))
    header = _header(chosen)
    share = -(-len(order) // parts)
    concatenation, files = generate_uid(), []
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        mine = order[part * share : (part + 1) * share]
        dataset = _part_of(header, part, parts, part * share, concatenation)
        _place(dataset, mine, sparse=sparse)
        _store_frames(dataset, [everything[number] for number in mine], offsets, fragments)
        files.append(folder / f"{encoding}-{part}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def _header(chosen: Encoding) -> FileDataset:
    header = pydicom.dcmread(volume_file(), stop_before_pixels=True)
    header.file_meta.TransferSyntaxUID = chosen.syntax
    header.PatientID = header.PatientName = header.ContainerIdentifier = "ODD"
    header.StudyInstanceUID, header.SeriesInstanceUID = generate_uid(), generate_uid()
    header.Rows = header.Columns = TILE
    header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows = WIDTH, HEIGHT
    header.ImagedVolumeWidth, header.ImagedVolumeHeight = WIDTH * 0.000499, HEIGHT * 0.000499
    header.PhotometricInterpretation = chosen.colours
    header.LossyImageCompression = "00" if chosen.lossy_method is None else "01"
    if chosen.lossy_method is None:
        del header.LossyImageCompressionRatio, header.LossyImageCompressionMethod
    else:
        header.LossyImageCompressionRatio, header.LossyImageCompressionMethod = 10, chosen.lossy_method
    return header


def _part_of(header: FileDataset, part: int, parts: int, offset: int, concatenation: str) -> FileDataset:
    dataset = pydicom.dcmread(_written(header))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    if parts > 1:
        dataset.ConcatenationUID = concatenation
        dataset.SOPInstanceUIDOfConcatenationSource = header.SOPInstanceUID
        dataset.InConcatenationNumber, dataset.InConcatenationTotalNumber = part + 1, parts
        dataset.ConcatenationFrameOffsetNumber = offset
    return dataset


def _written(header: FileDataset) -> io.BytesIO:
    buffer = io.BytesIO()
    header.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return buffer


def _place(dataset: FileDataset, order: Sequence[int], *, sparse: bool) -> None:
    dataset.NumberOfFrames = len(order)
    dataset.DimensionOrganizationType = "TILED_SPARSE" if sparse else "TILED_FULL"
    if sparse:
        dataset.PerFrameFunctionalGroupsSequence = [_position(number) for number in order]


def _position(number: int) -> Dataset:
    position, groups = Dataset(), Dataset()
    position.ColumnPositionInTotalImagePixelMatrix = number % COLUMNS * TILE + 1
    position.RowPositionInTotalImagePixelMatrix = number // COLUMNS * TILE + 1
    position.XOffsetInSlideCoordinateSystem = position.YOffsetInSlideCoordinateSystem = 0
    position.ZOffsetInSlideCoordinateSystem = 0
    groups.PlanePositionSlideSequence = [position]
    return groups


def _store_frames(dataset: FileDataset, frames: list[bytes], offsets: str, fragments: int) -> None:
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.PixelData = b"".join(frames)
    elif offsets == "extended":
        dataset.PixelData, table, lengths = encapsulate_extended(frames)
        dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = table, lengths
    else:
        dataset.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=offsets == "basic")
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = dataset.file_meta.TransferSyntaxUID.is_encapsulated
