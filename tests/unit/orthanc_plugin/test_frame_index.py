# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where frames lie, against pydicom on files it wrote and on real ones."""

from __future__ import annotations

import io
import os

import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from orthanc_plugin.slides.frame_index import FrameIndexError, frame_index
from tests.support.shared_data import shared_path

FRAMES = [bytes([number]) * (2 * number) for number in range(1, 40)]


def located(content: bytes) -> list[bytes]:
    found = frame_index(lambda offset, length: content[offset : offset + length])
    return [
        content[offset : offset + length] for offset, length in zip(found.offsets, found.lengths, strict=True)
    ]


def written(dataset: Dataset, syntax: str) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.77.1.6")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    file = FileDataset("", dataset, file_meta=meta, preamble=b"\0" * 128)
    stream = io.BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def slide(frames: int, *, undefined_length: bool = False) -> Dataset:
    dataset = Dataset()
    dataset.SOPInstanceUID = "1.2.3"
    dataset.SamplesPerPixel = 3
    dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns = 4, 5
    dataset.BitsAllocated = 8
    functional = Dataset()
    functional.PlanePositionSlideSequence = Sequence([Dataset()])
    functional.PlanePositionSlideSequence[0].ColumnPositionInTotalImagePixelMatrix = 7
    dataset.PerFrameFunctionalGroupsSequence = Sequence([functional] * frames)
    for sequence in ("PerFrameFunctionalGroupsSequence",):
        dataset[sequence].is_undefined_length = undefined_length
    functional.is_undefined_length_sequence_item = undefined_length
    return dataset


@pytest.mark.parametrize("has_bot", [True, False])
@pytest.mark.parametrize("undefined_length", [True, False])
def test_compressed_frames_are_found_with_and_without_an_offset_table(
    has_bot: bool, undefined_length: bool
) -> None:
    dataset = slide(len(FRAMES), undefined_length=undefined_length)
    dataset.PixelData = encapsulate(FRAMES, has_bot=has_bot)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    assert located(written(dataset, JPEGBaseline8Bit)) == FRAMES


def test_compressed_frames_are_found_with_an_extended_offset_table() -> None:
    dataset = slide(len(FRAMES))
    dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(
        FRAMES
    )
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    assert located(written(dataset, JPEGBaseline8Bit)) == FRAMES


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_uncompressed_frames_are_equal_parts(syntax: str) -> None:
    frames = [os.urandom(60) for _ in range(7)]
    dataset = slide(7)
    dataset.PixelData = b"".join(frames)
    dataset["PixelData"].VR = "OB" if syntax == ExplicitVRLittleEndian else "OW"
    assert located(written(dataset, syntax)) == frames


def test_frames_in_several_pieces_have_no_index() -> None:
    dataset = slide(2)
    dataset.PixelData = encapsulate([b"a" * 100, b"b" * 100], fragments_per_frame=2)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(FrameIndexError, match="2 frames lie in 4 pieces"):
        located(written(dataset, JPEGBaseline8Bit))


def test_a_file_without_pixels_has_no_index() -> None:
    with pytest.raises(FrameIndexError):
        located(written(slide(2), ExplicitVRLittleEndian))


def test_a_file_cut_anywhere_is_an_error_and_never_a_loop() -> None:
    dataset = slide(5)
    dataset.PixelData = encapsulate(FRAMES[:5])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    content = written(dataset, JPEGBaseline8Bit)
    for length in range(0, len(content) - 8, 3):
        with pytest.raises(FrameIndexError):
            located(content[:length])


def test_a_real_slide_agrees_with_pydicom() -> None:
    for path in sorted(shared_path("slides/dicom-cmu-1-small-region").glob("*.dcm")):
        dataset = pydicom.dcmread(path)
        expected = list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames)))
        assert located(path.read_bytes()) == expected, path.name
