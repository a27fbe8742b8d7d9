# SPDX-License-Identifier: Apache-2.0
"""What a slide's headers must say before a request is worked on: pure decisions on DICOM headers.

Whatever would end in a wrong picture, or only after minutes, is refused here at once, with a code of its own
and a sentence that says what to do. What is merely unusual is noted and goes into the result.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import ImageCms
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID
from wsidicom.codec import Codec

from clam_core.errors import (
    FocalPlanesError,
    FramesMissingError,
    MissingMppError,
    NoVolumeError,
    OpticalPathsError,
)
from clam_core.slides import is_square

from .preflight_errors import (
    ColoursError,
    CompressionError,
    FrameOfReferenceError,
    HeaderIncompleteError,
    IccProfileError,
    PixelSizeError,
    TileSizeError,
)

HEADER_ENDS_AT = Tag("PerFrameFunctionalGroupsSequence")
"""What comes before is all that is looked at: behind it lie megabytes on slides of many frames."""

ICC_MISSING = "icc_profile_missing"
ICC_UNREADABLE = "icc_profile_unreadable"
FRAME_OF_REFERENCE_MISSING = "frame_of_reference_missing"
"""Notes. Colours are taken as they are stored, as models are trained; without a frame of reference the DICOM
results cannot be laid over the slide."""

SMALLEST_MPP, LARGEST_MPP = 0.02, 100.0
"""Micrometres per pixel that a scanner can mean: 100x oil immersion oversampled, to a thumbnail."""
MOST_TILE_PIXELS = 64_000_000
"""A tile of 8,000 x 8,000 takes 200 MB decoded, several times in flight."""

_COLOURS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
"""Photometric interpretations of three samples that PS3.3 C.8.12.4.1.5 gives whole-slide images, and
YBR_FULL, which is met."""
_NEEDED = (
    "Rows",
    "Columns",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "BitsStored",
    "ImagedVolumeWidth",
    "ImagedVolumeHeight",
)
_OFFSET = "ConcatenationFrameOffsetNumber"
_CONVERT = "convert the slide again with `pathology-worker ingest`, or store another export of the scanner"


def check_slide(headers: Sequence[Dataset], parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """Check the headers of a slide's levels.

    Parameters
    ----------
    headers
        Headers of the VOLUME instances of one series, with their file meta, up to `HEADER_ENDS_AT`.
    parameters
        The request's parameters: ``mpp`` stands in for a missing pixel size.

    Returns
    -------
    tuple of str
        Notes on what is unusual.

    Raises
    ------
    SlideError
        If the slide must not or cannot be analysed.
    """
    if not headers:
        raise NoVolumeError(
            "The series holds no image of the whole slide (ImageType VOLUME), only labels, overviews or "
            "other objects; choose the series that holds the slide itself."
        )
    for header in headers:
        _check_header(header)
    _check_concatenations(headers)
    largest = max(headers, key=lambda header: int(header.TotalPixelMatrixColumns))
    check_mpp(mpp_of(largest), parameters)
    return (*_check_frames_of_reference(headers), *_check_icc_profile(largest))


def _check_header(header: Dataset) -> None:
    missing = [keyword for keyword in _NEEDED if header.get(keyword) is None]
    if missing:
        raise HeaderIncompleteError(
            f"The header of a level lacks {', '.join(missing)}, without which it cannot be read: {_CONVERT}."
        )
    _check_tiles(header)
    _check_planes(header)
    _check_colours(header)
    _check_compression(header)


def _check_tiles(header: Dataset) -> None:
    sides = [int(header[keyword].value) for keyword in _NEEDED[:4]]
    if min(sides) < 1:
        raise TileSizeError(
            f"A level of {sides[2]} x {sides[3]} pixels claims tiles of {sides[1]} x {sides[0]}: {_CONVERT}."
        )
    if sides[0] * sides[1] > MOST_TILE_PIXELS:
        raise TileSizeError(
            f"A level is stored in tiles of {sides[1]} x {sides[0]} pixels, each of which must be decoded "
            "whole: convert the slide with smaller tiles (`pathology-worker ingest` does)."
        )
    if header.get("DimensionOrganizationType") == "TILED_FULL" and "ConcatenationUID" not in header:
        frames, expected = int(header.get("NumberOfFrames") or 1), expected_frames(header)
        if frames != expected:
            raise FramesMissingError(
                f"A level of {sides[2]} x {sides[3]} pixels has {frames} tiles where {expected} belong: "
                f"what is missing would show as something else; {_CONVERT}."
            )


def expected_frames(header: Dataset) -> int:
    """Return how many frames a TILED_FULL image of the header's sizes has (PS3.3 C.7.6.17.3)."""
    across = -(-int(header.TotalPixelMatrixColumns) // int(header.Columns))
    down = -(-int(header.TotalPixelMatrixRows) // int(header.Rows))
    return across * down * _focal_planes(header) * _optical_paths(header)


def _focal_planes(header: Dataset) -> int:
    return int(header.get("TotalPixelMatrixFocalPlanes") or 1)


def _optical_paths(header: Dataset) -> int:
    return int(header.get("NumberOfOpticalPaths") or len(header.get("OpticalPathSequence") or ()) or 1)


def _check_planes(header: Dataset) -> None:
    if _optical_paths(header) > 1:
        raise OpticalPathsError(
            f"The slide has {_optical_paths(header)} optical paths, and the model knows one; export one of "
            "them as a series of its own."
        )
    if _focal_planes(header) > 1:
        raise FocalPlanesError(
            f"The slide has {_focal_planes(header)} focal planes, and the model knows one; export one of "
            "them as a series of its own."
        )


def _check_colours(header: Dataset) -> None:
    colours, bits = str(header.PhotometricInterpretation), int(header.BitsStored)
    if int(header.SamplesPerPixel) == 3 and colours in _COLOURS and bits == 8:
        return
    raise ColoursError(
        f"The slide's pixels are {colours} with {header.SamplesPerPixel} x {bits} bits, and models see "
        "stained tissue in bright field, in RGB or YBR with 3 x 8 bits: choose the bright-field series, or "
        "convert it."
    )


def _check_compression(header: Dataset) -> None:
    syntax = UID(header.file_meta.get("TransferSyntaxUID", ""))
    colours = str(header.PhotometricInterpretation)
    # A server of DICOMweb keeps the syntax to itself: there it is found when the frames are asked for.
    if syntax and not Codec.is_supported(syntax, 3, 8, colours):
        raise CompressionError(
            f"The slide is compressed as {syntax.name}, which is not decoded here: convert it with "
            "`pathology-worker ingest`, or export it as JPEG, JPEG 2000 or JPEG-LS."
        )


def _check_concatenations(headers: Sequence[Dataset]) -> None:
    """See that every part is there: wsidicom reads what there is, and says nothing of the rest.

    Converters may leave out of how many parts a level is made: a missing part then shows in the numbers and
    places of those that follow it.
    """
    concatenations: dict[str, list[Dataset]] = defaultdict(list)
    for header in headers:
        if header.get("ConcatenationUID"):
            concatenations[str(header.ConcatenationUID)].append(header)
    for parts in concatenations.values():
        _check_parts(parts)


def _check_parts(parts: Sequence[Dataset]) -> None:
    named = ("InConcatenationTotalNumber", "InConcatenationNumber")
    wanted = max(len(parts), *(_number(part, keyword) for part in parts for keyword in named))
    frames = sum(_frames(part) for part in parts)
    full = parts[0].get("DimensionOrganizationType") == "TILED_FULL"
    whole = not full or frames == expected_frames(parts[0])
    complete, in_order = len(parts) >= wanted and whole, _follow_each_other(parts)
    if complete and not in_order and any(part.get(_OFFSET) is None for part in parts):
        raise HeaderIncompleteError(
            f"The {len(parts)} parts of a level do not say where each begins ({_OFFSET}), without which they "
            f"cannot be put together: {_CONVERT}."
        )
    if not complete or not in_order:
        raise FramesMissingError(
            f"Of a level that is stored in parts, {len(parts)} of {wanted} are there, with {frames} tiles: "
            "store the missing ones, or the slide again."
        )


def _number(header: Dataset, keyword: str) -> int:
    return int(header.get(keyword) or 0)


def _frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _follow_each_other(parts: Sequence[Dataset]) -> bool:
    """Tell whether each part begins where the one before it ends (PS3.3 C.7.6.16.2.2.4)."""
    begin = 0
    for part in sorted(parts, key=_begin):
        if _begin(part) != begin:
            return False
        begin += _frames(part)
    return True


def _begin(part: Dataset) -> int:
    return _number(part, _OFFSET)


def check_mpp(mpp: tuple[float, float] | None, parameters: Mapping[str, Any]) -> None:
    """Check the size of a slide's pixels.

    Parameters
    ----------
    mpp
        Micrometres per pixel of level 0, (x, y), or None where the slide does not say.
    parameters
        The request's parameters: ``mpp`` stands in for the slide's, and the ``reference`` modes need none.

    Raises
    ------
    MissingMppError, PixelSizeError
        If there is none, or one that no scanner has.
    """
    if parameters.get("mpp") is not None:
        return
    if mpp is None:
        if not parameters.get("reference"):
            raise MissingMppError(
                "The slide does not say how large a pixel is: submit it with the parameter mpp "
                "(micrometres per pixel, such as 0.25 for 40x), or ingest it again with --mpp."
            )
        return
    for micrometres in mpp:
        if not SMALLEST_MPP <= micrometres <= LARGEST_MPP:
            raise PixelSizeError(
                f"The slide says that a pixel is {micrometres:g} micrometres wide, which no scanner means "
                "(DICOM wants millimetres): submit it with the parameter mpp, or ingest it again with --mpp."
            )
    if not is_square(mpp):
        raise PixelSizeError(
            f"The slide says that a pixel is {mpp[0]:.3g} micrometres wide and {mpp[1]:.3g} high, and "
            "scanners have square ones: submit it with the parameter mpp, or ingest it again with --mpp."
        )


def mpp_of(header: Dataset) -> tuple[float, float] | None:
    """Return the micrometres per pixel of a level, (x, y), or None where its header does not say."""
    for groups in header.get("SharedFunctionalGroupsSequence") or ():
        for measures in groups.get("PixelMeasuresSequence") or ():
            spacing = measures.get("PixelSpacing")
            if spacing is not None and len(spacing) == 2:
                # Millimetres between rows, then between columns (PS3.3 10.7.1.3).
                return float(spacing[1]) * 1000, float(spacing[0]) * 1000
    return None


def _check_frames_of_reference(headers: Sequence[Dataset]) -> Iterator[str]:
    found = [str(header.get("FrameOfReferenceUID") or "") for header in headers]
    named = set(found) - {""}
    if len(named) > 1:
        raise FrameOfReferenceError(
            f"The levels of the slide lie in {len(named)} frames of reference, so they may show different "
            f"places or scans: store each scan as a series of its own, or {_CONVERT}."
        )
    if "" in found:
        yield FRAME_OF_REFERENCE_MISSING


def _check_icc_profile(header: Dataset) -> Iterator[str]:
    profiles = [path.get("ICCProfile") for path in header.get("OpticalPathSequence") or ()]
    profile = next((profile for profile in profiles if profile), None)
    if profile is None:
        yield ICC_MISSING
        return
    try:
        space = ImageCms.getOpenProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError):
        yield ICC_UNREADABLE
        return
    if space != "RGB":
        raise IccProfileError(
            f"The slide's ICC profile is for {space} pixels, and its pixels are RGB: one of both is wrong, "
            f"and so may be its colours; {_CONVERT}."
        )
