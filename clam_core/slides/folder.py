# SPDX-License-Identifier: Apache-2.0
"""Which slides a file or a folder holds."""

from __future__ import annotations

from pathlib import Path

import openslide
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from clam_core.errors import SlideError

_TAGS = ["SOPClassUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns"]


def is_dicom(path: Path) -> bool:
    """Tell DICOM by its preamble (PS3.10, 7.1), and a folder by any of its files."""
    if path.is_dir():
        return any(is_dicom(file) for file in files_in(path))
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder by name, without those of folders in it."""
    return sorted(file for file in folder.iterdir() if file.is_file())


def require_one_slide(path: Path) -> None:
    """Raise where a folder holds several slides, which is not guessed among, or a DICOM file is damaged.

    wsidicom passes over files whose header it cannot use, and the slide would be analysed without that level.

    Raises
    ------
    SlideError
        Naming them.
    """
    slides: dict[str, str] = {}
    for file in files_in(path) if path.is_dir() else [path]:
        identity = _series_of(file) if is_dicom(file) else _file_of_slide(file)
        if identity is not None:
            slides.setdefault(identity, file.name)
    if len(slides) > 1:
        raise SlideError(
            f"{path.name} holds several slides: name one of {', '.join(slides.values())}. "
            "DICOM series each need a folder of their own."
        )


def _series_of(file: Path) -> str | None:
    """Return the series whose slide a DICOM file is a level of, or None; raise where that cannot be told."""
    try:
        header = dcmread(file, specific_tags=list(_TAGS), stop_before_pixels=True)
    except (InvalidDicomError, EOFError, ValueError, RecursionError) as error:
        raise _damaged(file) from error
    is_level = header.get("SOPClassUID") == VLWholeSlideMicroscopyImageStorage
    is_level = is_level and "VOLUME" in (header.get("ImageType") or ())
    if is_level and "TotalPixelMatrixColumns" not in header:
        raise _damaged(file)  # pydicom reads of a file that is cut off what is there
    return str(header.get("SeriesInstanceUID")) if is_level else None


def _damaged(file: Path) -> SlideError:
    return SlideError(
        f"The DICOM header of {file.name} is damaged or incomplete: compare its size with the original's "
        "and copy it again."
    )


def _file_of_slide(file: Path) -> str | None:
    return None if openslide.OpenSlide.detect_format(file) is None else str(file)
