# SPDX-License-Identifier: AGPL-3.0-or-later
"""ImageType out of a file's first bytes, against pydicom on files it wrote and on real ones."""

from __future__ import annotations

import io

import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from orthanc_plugin.slides.dicom_header import HEAD_BYTES, image_type
from tests.support.shared_data import shared_path

VOLUME = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]


def head(syntax: str, **elements: object) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.77.1.6")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName = "x" * 60
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()[:HEAD_BYTES]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit])
def test_image_type_is_read_in_the_syntaxes_slides_come_in(syntax: str) -> None:
    assert image_type(head(syntax, ImageType=VOLUME, SpecificCharacterSet="ISO_IR 100")) == tuple(VOLUME)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_absent_or_empty_image_type_is_empty(syntax: str) -> None:
    assert image_type(head(syntax)) == ()
    assert image_type(head(syntax, ImageType="")) == ()


def test_a_deflated_file_is_left_to_orthanc() -> None:
    assert image_type(head(DeflatedExplicitVRLittleEndian, ImageType=VOLUME)) is None


def test_a_sequence_of_undefined_length_before_it_is_left_to_orthanc() -> None:
    language = Dataset()
    language.CodeValue = "en"
    content = head(ExplicitVRLittleEndian, LanguageCodeSequence=[language], ImageType=VOLUME)
    stored = content.replace(b"\x08\x00\x06\x00SQ\0\0", b"\x08\x00\x06\x00SQ\0\0", 1)
    start = stored.index(b"\x08\x00\x06\x00SQ") + 8
    assert image_type(stored[:start] + b"\xff\xff\xff\xff" + stored[start + 4 :]) is None
    assert image_type(content) == tuple(VOLUME)


def test_bytes_that_are_no_dicom_or_end_early_are_left_to_orthanc() -> None:
    content = head(ExplicitVRLittleEndian, ImageType=VOLUME)
    assert image_type(b"") is None
    assert image_type(b"\0" * HEAD_BYTES) is None
    for length in range(len(content)):
        assert image_type(content[:length]) in {None, tuple(VOLUME)}


@pytest.mark.parametrize("folder", ["dicom-cmu-1-small-region", "dicom-misc"])
def test_real_files_agree_with_pydicom(folder: str) -> None:
    for path in sorted(shared_path(f"slides/{folder}").glob("*.dcm")):
        expected = pydicom.dcmread(path, stop_before_pixels=True).get("ImageType", [])
        found = image_type(path.read_bytes()[:HEAD_BYTES])
        assert found == tuple(expected), path.name
