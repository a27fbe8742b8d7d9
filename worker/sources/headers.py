# SPDX-License-Identifier: Apache-2.0
"""Headers of stored instances, for what is checked before a slide is opened."""

from __future__ import annotations

from collections import deque
from typing import BinaryIO, cast

from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from clam_core.errors import SlideError
from worker.nesting import is_too_deep, too_deep
from worker.quiet import unquoted

from .preflight import HEADER_ENDS_AT
from .range_files import RangeStream


def read_header(stream: BinaryIO | RangeStream) -> Dataset:
    """Read a DICOM file up to what it says of its single frames.

    Raises
    ------
    SlideError
        If it is no DICOM file, or its header is damaged or nested too deep.
    """
    try:
        with unquoted():
            header = read_partial(cast("BinaryIO", stream), stop_when=_is_behind_header)
            if is_too_deep(header):
                raise too_deep()
            # Values are made when they are first looked at: damage is to show here.
            deque(header.iterall(), maxlen=0)
            return header
    except RecursionError as error:
        raise too_deep() from error
    except (InvalidDicomError, EOFError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise SlideError(
            "A stored image of the slide is no DICOM file, or its header is damaged "
            f"({type(error).__name__}): store the slide again."
        ) from error


def _is_behind_header(tag: BaseTag, _representation: str | None, _length: int) -> bool:
    return bool(tag >= HEADER_ENDS_AT)
