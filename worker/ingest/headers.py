# SPDX-License-Identifier: Apache-2.0
"""Write a slide's identity into the headers of its DICOM files; pixel data is copied as it is.

Only the header passes through memory, so that a level of many gigabytes costs none.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID

from .errors import IngestError
from .identity import DicomIdentity
from .stored_colours import photometric_interpretation

_PIXEL_DATA = bytes.fromhex("e07f1000")
"""Tag (7FE0,0010) as it stands in a little-endian file."""


@dataclass(frozen=True)
class NamedFile:
    """A file under its final name.

    Attributes
    ----------
    path
        The file.
    role
        ``level-0`` for the largest level, ``level-1`` and so on, ``label``, ``overview``.
    """

    path: Path
    role: str


def write_headers(files: Sequence[Path], out: Path, identity: DicomIdentity) -> tuple[NamedFile, ...]:
    """Copy the files of one slide, with the identity in their headers.

    Parameters
    ----------
    files
        DICOM files of one slide: levels, and perhaps label and overview.
    out
        An existing folder to write to.
    identity
        Names and UIDs.

    Returns
    -------
    tuple of NamedFile
        Labels first, then levels from the smallest to the largest: whoever stores them in this order and
        finds the last one knows that all are there.
    """
    headers = [(path, dcmread(path, stop_before_pixels=True)) for path in files]
    roles = _roles(headers)
    named = []
    for number, (path, header) in enumerate(
        sorted(headers, key=lambda item: _order(roles[item[0]])), start=1
    ):
        role = roles[path]
        _identify(header, identity, role)
        header.InstanceNumber = number
        header.PhotometricInterpretation = (
            photometric_interpretation(path) or header.PhotometricInterpretation
        )
        target = out / f"{role}.dcm"
        _write(path, header, target)
        named.append(NamedFile(target, role))
    return tuple(named)


def _roles(headers: Sequence[tuple[Path, Dataset]]) -> dict[Path, str]:
    def area(item: tuple[Path, Dataset]) -> int:
        return int(item[1].TotalPixelMatrixColumns) * int(item[1].TotalPixelMatrixRows)

    volumes = sorted((item for item in headers if "VOLUME" in item[1].ImageType), key=area, reverse=True)
    roles = {path: f"level-{index}" for index, (path, _) in enumerate(volumes)}
    for path, header in headers:
        roles.setdefault(path, str(header.ImageType[2]).lower())
    return roles


def _order(role: str) -> tuple[bool, int]:
    is_level = role.startswith("level-")
    return is_level, -int(role.removeprefix("level-")) if is_level else 0


def _identify(header: Dataset, identity: DicomIdentity, role: str) -> None:
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPInstanceUID = identity.uid(role)
    header.file_meta.MediaStorageSOPInstanceUID = UID(identity.uid(role))
    header.StudyInstanceUID = identity.study_uid
    header.SeriesInstanceUID = identity.series_uid
    header.PatientID = identity.patient_id
    header.PatientName = identity.patient_name
    header.AccessionNumber = identity.accession_number
    header.StudyID = "1"
    header.StudyDescription = identity.study_description
    header.SeriesDescription = identity.container_id
    header.ContainerIdentifier = identity.container_id
    header.FrameOfReferenceUID = identity.uid("frame-of-reference")
    _date(header)
    for item in header.get("DimensionOrganizationSequence", DicomSequence()):
        item.DimensionOrganizationUID = identity.uid("dimension-organization")
    for item in header.get("DimensionIndexSequence", DicomSequence()):
        item.DimensionOrganizationUID = identity.uid("dimension-organization")
    for item in header.SpecimenDescriptionSequence:
        item.SpecimenIdentifier = identity.container_id
        item.SpecimenUID = identity.uid("specimen")
    if role.startswith("level-"):
        header.PyramidUID = identity.uid("pyramid")
        _image_type(header, role)


def _date(header: Dataset) -> None:
    """Date the study by the scan, and not at all where nobody knows it: the converter says 1970 then.

    Any other day would be read as that of the case.
    """
    scanned = str(header.get("AcquisitionDateTime", "") or "")
    known = len(scanned) >= 8 and not scanned.startswith("1970")
    header.StudyDate = scanned[:8] if known else ""
    header.StudyTime = scanned[8:14] if known and len(scanned) >= 14 else ""


def _image_type(header: Dataset, role: str) -> None:
    """Say which level was scanned and which ones were computed from it (PS3.3 C.8.12.4.1.1)."""
    kind = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    if role != "level-0":
        kind = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    header.ImageType = kind
    for group in header.SharedFunctionalGroupsSequence:
        for frame_type in group.get("WholeSlideMicroscopyImageFrameTypeSequence", DicomSequence()):
            frame_type.FrameType = kind


def _write(source: Path, header: Dataset, target: Path) -> None:
    with source.open("rb") as original, target.open("wb") as copy:
        dcmread(original, stop_before_pixels=True)
        if original.read(4) != _PIXEL_DATA:
            raise IngestError("converter_failed", f"The converter wrote no pixel data into {source.name}.")
        original.seek(-4, 1)
        dcmwrite(copy, header, enforce_file_format=True)
        shutil.copyfileobj(original, copy, 1 << 20)
