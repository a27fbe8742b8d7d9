# SPDX-License-Identifier: Apache-2.0
"""DICOM files of a few hundred bytes, for tests that are about the queue and not about pictures."""

from __future__ import annotations

from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

WSI_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def _file(dataset: Dataset) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def tiny_slide(
    series_uid: str,
    study_uid: str,
    *,
    sop_uid: str | None = None,
    note: str = "",
    body_part: str = "",
    kind: str = "VOLUME",
) -> bytes:
    """Return a whole-slide instance without pixels; `note` changes its content and nothing else."""
    dataset = Dataset()
    dataset.PatientID = dataset.PatientName = f"TINY-{study_uid[-12:]}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
    dataset.SOPClassUID, dataset.SOPInstanceUID = WSI_STORAGE, sop_uid or generate_uid()
    dataset.Modality = "SM"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
    dataset.ImageComments = note
    dataset.BodyPartExamined = body_part
    return _file(dataset)


def tiny_result(study_uid: str, *, series_uid: str | None = None, sop_uid: str | None = None) -> bytes:
    """Return a DICOM object of a result, with a nested sequence before its series' UID."""
    dataset = Dataset()
    dataset.PatientID = dataset.PatientName = f"TINY-{study_uid[-12:]}"
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = series_uid or generate_uid()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, sop_uid or generate_uid()
    dataset.Modality = "SR"
    referenced, instance = Dataset(), Dataset()
    instance.ReferencedSOPInstanceUID = generate_uid()
    referenced.SeriesInstanceUID = generate_uid()
    referenced.ReferencedInstanceSequence = [instance]
    dataset.ReferencedSeriesSequence = [referenced]
    dataset["ReferencedSeriesSequence"].is_undefined_length = True
    return _file(dataset)


def nested_result(study_uid: str, depth: int, *, ends: bool) -> bytes:
    """Return a result with `nested_sequences` at its end."""
    return tiny_result(study_uid) + nested_sequences(depth, ends=ends)


def nested_sequences(depth: int, *, ends: bool) -> bytes:
    """Return sequences in sequences; each `ends` by a mark, or has a length."""
    value = b""
    for _ in range(depth):
        item, sequence = b"\xfe\xff\x00\xe0", b"\x40\x00\x30\xa7SQ\x00\x00"
        if ends:
            value = item + b"\xff" * 4 + value + b"\xfe\xff\x0d\xe0" + b"\0" * 4
            value = sequence + b"\xff" * 4 + value + b"\xfe\xff\xdd\xe0" + b"\0" * 4
        else:
            value = item + len(value).to_bytes(4, "little") + value
            value = sequence + len(value).to_bytes(4, "little") + value
    return value


def unreadable_result(study_uid: str) -> bytes:
    """Return a result that is sound up to its series' UID, which is all that the plugin reads."""
    series_uid = generate_uid()
    sound = tiny_result(study_uid, series_uid=series_uid)
    end = sound.rindex(series_uid.encode()) + len(series_uid) + len(series_uid) % 2
    return sound[:end] + b"\x28\x00\x10\x00OB\x00\x00\xf0\xff\xff\x7f" + b"\xff" * 64
