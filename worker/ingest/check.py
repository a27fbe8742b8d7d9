# SPDX-License-Identifier: Apache-2.0
"""Whether a slide can be stored, known before there is an Orthanc to store it in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .convert import check_convertible
from .dicom_files import find_slides, is_dicom
from .identity import SlideOptions
from .pipeline import check_readable, require_as_it_is, require_file


def check_slide(slide: Path, options: SlideOptions, converter: Callable[[], Path]) -> None:
    """See that a slide can be read and says how large its pixels are (or that the options do).

    Parameters
    ----------
    slide
        The file, or the folder of DICOM files.
    options
        As for the ingest.
    converter
        Returns the converter's interpreter; asked only for what is no DICOM.

    Raises
    ------
    IngestError
        If it cannot be ingested; the message says what to do.
    """
    if is_dicom(slide):
        require_as_it_is(slide, options)
        for found in find_slides(slide, labels=options.labels):
            check_readable(found.files)
        return
    require_file(slide)
    check_convertible(converter(), slide, mpp=options.mpp)
