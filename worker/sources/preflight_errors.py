# SPDX-License-Identifier: Apache-2.0
"""Why a slide is refused before any work; each with the code that the request ends with.

::

    SlideError (clam_core)
    `-- PreflightError
        |-- HeaderIncompleteError    an attribute is missing that reading needs
        |-- TileSizeError            no tiles, or too large ones
        |-- ColoursError             not stained tissue in bright field
        |-- CompressionError         nobody here decodes it
        |-- PixelSizeError           a pixel size that no scanner means
        |-- FrameOfReferenceError    the levels do not belong together
        `-- IccProfileError          the colour profile contradicts the pixels

Beside them preflight raises `NoVolumeError`, `MissingMppError`, `OpticalPathsError`, `FocalPlanesError` and
`FramesMissingError` of clam_core.
"""

from __future__ import annotations

from clam_core.errors import SlideError


class PreflightError(SlideError):
    """The slide's header says that it must not or cannot be analysed."""

    code = "preflight"


class HeaderIncompleteError(PreflightError):
    """The header lacks what reading needs."""

    code = "header_incomplete"


class TileSizeError(PreflightError):
    """The tiles are empty or too large."""

    code = "tile_size_unusable"


class ColoursError(PreflightError):
    """The pixels are not what models are trained on."""

    code = "colours_unsupported"


class CompressionError(PreflightError):
    """The frames cannot be decoded here."""

    code = "compression_unsupported"


class PixelSizeError(PreflightError):
    """The pixel size is not one that a scanner has."""

    code = "pixel_size_implausible"


class FrameOfReferenceError(PreflightError):
    """The levels lie in different frames of reference."""

    code = "frame_of_reference_differs"


class IccProfileError(PreflightError):
    """The colour profile is for other pixels."""

    code = "icc_profile_wrong"
