# SPDX-License-Identifier: Apache-2.0
"""Why a slide cannot be read where it is stored.

::

    SlideError (clam_core)
    `-- SourceError
        |-- SourceUnreachableError   no answer, though asked several times
        |   `-- SourceBlockedError       something else answers in the server's place
        |-- SourceRefusedError       the server does not let this worker read
        |   `-- SourceUnauthorizedError  the user or the password is wrong
        |-- SourceDeletedError       the instance is not there any more
        |-- ChangedInMidReadError    the instance was overwritten while it was read
        |-- IncompleteSlideError     a stored level cannot be read: nothing is guessed from the others
        |-- TruncatedSlideError      the stored file ends before its last frame
        |-- FragmentedFramesError    a frame lies in several pieces
        |-- NoSlideFileError         no file in SVS_STORAGE_DIR belongs to the series either
        `-- AmbiguousSlideFileError  several files in SVS_STORAGE_DIR do
"""

from __future__ import annotations

from clam_core.errors import SlideError


class SourceError(SlideError):
    """The slide cannot be read from where it is stored."""

    code = "source_unreadable"


class SourceUnreachableError(SourceError):
    """Orthanc does not answer."""

    code = "source_unreachable"


class SourceBlockedError(SourceUnreachableError):
    """Something else answers in Orthanc's place, such as a proxy."""


class SourceRefusedError(SourceError):
    """Orthanc does not let this worker read the slide."""

    code = "source_refused"


class SourceUnauthorizedError(SourceRefusedError):
    """Orthanc does not accept the user or the password: no fault of the request, which is handed back."""


class SourceDeletedError(SourceError):
    """The instance was deleted."""

    code = "source_deleted"


class ChangedInMidReadError(SourceError):
    """The instance was overwritten since the request was claimed."""

    code = "changed_in_mid_read"


class IncompleteSlideError(SourceError):
    """Some of the slide's instances cannot be opened."""

    code = "slide_incomplete"


class TruncatedSlideError(SourceError):
    """A stored file is shorter than its own header says."""

    code = "slide_truncated"


class FragmentedFramesError(SourceError):
    """A frame is not one piece of its file."""

    code = "frames_fragmented"


class NoSlideFileError(SourceError):
    """No file in the storage folder belongs to the series."""

    code = "no_slide_file"


class AmbiguousSlideFileError(SourceError):
    """Several files in the storage folder may belong to the series."""

    code = "ambiguous_slide_file"


class WayMissingError(Exception):
    """The server does not offer this way to the slide; another source is to be used.

    Not a `SlideError`: it says nothing about the slide.
    """
