# SPDX-License-Identifier: Apache-2.0
"""The slide that results refer to: the headers of its pyramid, made fit to copy from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Self

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from worker.logs import describe_foreign
from worker.nesting import is_too_deep, too_deep
from worker.quiet import unquoted

from .errors import HEADER_FAULTS, DicomResultsError

_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_EMPTY_ALLOWED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Attributes of type 2: they must be present and may be empty, yet converters leave them out."""

_SPATIAL = (
    "FrameOfReferenceUID",
    "ImageOrientationSlide",
    "TotalPixelMatrixOriginSequence",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "SharedFunctionalGroupsSequence",
)
_CHECKED = ("PatientSex", "PatientBirthDate", "StudyDate", "StudyTime")
"""highdicom refuses codes and dates that break the standard; slides have such, and results are theirs."""

_PIXEL_GROUP = 0x7FE0
_PER_FRAME = tag_for_keyword("PerFrameFunctionalGroupsSequence")
"""Where each tile lies in a sparse level: tens of thousands of items, and results refer to whole levels."""


@dataclass(frozen=True)
class SourceSlide:
    """Headers of one pyramid, without pixels and with every text decoded.

    Attributes
    ----------
    levels
        One VOLUME instance of each level, the largest first.
    """

    levels: tuple[Dataset, ...]

    @classmethod
    def of(cls, headers: Iterable[Dataset]) -> Self:
        """Take the headers of the levels' instances, in any order; they are copied, not changed.

        Raises
        ------
        DicomResultsError
            If there is none, or one lacks a UID or cannot be read.
        """
        with unquoted():
            prepared = [_readable(header) for header in headers]
        if not prepared:
            raise DicomResultsError("The slide has no DICOM header that results could refer to.")
        return cls(tuple(_one_of_each_size(prepared)))

    @property
    def base(self) -> Dataset:
        """The level with the most pixels."""
        return self.levels[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of level 0 in pixels; zeros where the header does not say."""
        return matrix_size(self.base)

    @property
    def spatial_gaps(self) -> tuple[str, ...]:
        """Attributes without which nothing can be placed on the slide, by keyword."""
        missing = [name for name in _SPATIAL if not self.base.get(name)]
        if "SharedFunctionalGroupsSequence" not in missing and not _has_spacing(self.base):
            missing.append("PixelSpacing")
        return tuple(missing)


def matrix_size(header: Dataset) -> tuple[int, int]:
    """Return (width, height) of a level's total pixel matrix."""
    return int(header.get("TotalPixelMatrixColumns") or 0), int(header.get("TotalPixelMatrixRows") or 0)


def to_build_from(header: Dataset) -> Dataset:
    """Return a header without the values that highdicom checks and refuses: see `keep_unchecked`."""
    lean = Dataset()
    lean.update({element.tag: element for element in header if element.keyword not in _CHECKED})
    for name in _CHECKED:
        setattr(lean, name, "")
    return lean


def keep_unchecked(document: Dataset, header: Dataset) -> None:
    """Put these values into an object as the slide has them, so that both name one patient and one study."""
    for name in _CHECKED:
        document[name] = header[name]


def _has_spacing(header: Dataset) -> bool:
    shared = header.SharedFunctionalGroupsSequence[0]
    measures = shared.get("PixelMeasuresSequence")
    return bool(measures) and bool(measures[0].get("PixelSpacing"))


def _readable(header: Dataset) -> Dataset:
    try:
        return _prepared(header)
    except HEADER_FAULTS as error:
        raise DicomResultsError(
            f"The slide's header cannot be read ({describe_foreign(error)}); convert the slide again."
        ) from error


def _prepared(header: Dataset) -> Dataset:
    missing = [name for name in _REQUIRED if not header.get(name)]
    if missing:
        raise DicomResultsError(
            f"The slide's header lacks {', '.join(missing)}, and results cannot refer to it: "
            "convert the slide again."
        )
    if is_too_deep(header):
        raise DicomResultsError(str(too_deep()))
    copy = Dataset()
    # What was read stays undecoded until somebody asks, in the character set of its own file: results are
    # written in another one, so all of it is decoded here, while that set is still at hand.
    for element in header.elements():
        if element.tag.group != _PIXEL_GROUP and element.tag != _PER_FRAME:
            copy[element.tag] = deepcopy(element)
    copy.set_original_encoding(
        header.original_encoding[0],
        header.original_encoding[1],
        header.original_character_set,
    )
    copy.decode()
    for name in _EMPTY_ALLOWED:
        if name not in copy:
            setattr(copy, name, "")
    return copy


def _one_of_each_size(headers: Sequence[Dataset]) -> list[Dataset]:
    """Keep one instance a level (a level may be split into several), the largest level first."""
    by_size: dict[tuple[int, int], Dataset] = {}
    for header in headers:
        by_size.setdefault(matrix_size(header), header)
    return [by_size[size] for size in sorted(by_size, key=lambda size: size[0] * size[1], reverse=True)]
