# SPDX-License-Identifier: Apache-2.0
"""Slides that are DICOM already: which of their files are stored."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from .errors import IngestError

_TAGS = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns"]


@dataclass(frozen=True)
class DicomSlide:
    """The files of one series that are worth storing.

    Attributes
    ----------
    series_uid
        SeriesInstanceUID.
    files
        Files, labels first, the largest level last.
    left_out
        How many label, overview and thumbnail images were left out.
    is_original
        Whether a level is as the scanner made it: of what is only derived nothing is analysed.
    """

    series_uid: str
    files: tuple[Path, ...]
    left_out: int
    is_original: bool


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its preamble (PS3.10, 7.1), and a folder by any file in it."""
    if path.is_dir():
        return any(is_dicom(file) for file in path.iterdir() if file.is_file())
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find_slides(path: Path, *, labels: bool) -> tuple[DicomSlide, ...]:
    """Return the slides in a file or a folder.

    Parameters
    ----------
    path
        A DICOM file or a folder of them.
    labels
        Whether label and overview images are wanted. Thumbnails never are: OHIF takes them for levels.

    Raises
    ------
    IngestError
        ``unreadable`` or ``not_a_slide``.
    """
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    series: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for file in files:
        if is_dicom(file):
            header = _header(file)
            if header.get("SOPClassUID") == VLWholeSlideMicroscopyImageStorage:
                series[str(header.SeriesInstanceUID)].append((file, header))
    slides = tuple(_slide(uid, members, labels=labels) for uid, members in sorted(series.items()))
    found = tuple(slide for slide in slides if slide.files)
    if not found:
        raise IngestError(
            "not_a_slide",
            f"{path.name} holds no whole-slide image (VL Whole Slide Microscopy, ImageType VOLUME): give the "
            "file or folder that holds the slide itself.",
        )
    return found


def _slide(uid: str, members: list[tuple[Path, Dataset]], *, labels: bool) -> DicomSlide:
    wanted = {"LABEL", "OVERVIEW"} if labels else set()
    levels = [(file, header) for file, header in members if "VOLUME" in _image_type(header)]
    levels.sort(key=lambda item: int(item[1].get("TotalPixelMatrixColumns", 0)))
    others = [file for file, header in members if wanted & set(_image_type(header))]
    files = (*others, *(file for file, _ in levels)) if levels else ()
    is_original = any(_image_type(header)[0] == "ORIGINAL" for _, header in levels)
    return DicomSlide(uid, files, len(members) - len(files), is_original)


def _image_type(header: Dataset) -> list[str]:
    value = header.get("ImageType", [])
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _header(file: Path) -> Dataset:
    try:
        return dcmread(file, specific_tags=list(_TAGS), stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError, ValueError, RecursionError) as error:
        raise IngestError("unreadable", f"{file.name} is damaged DICOM ({error}): copy it again.") from error
