# SPDX-License-Identifier: Apache-2.0
"""When a file in SVS_STORAGE_DIR may stand in for what is stored, and when it would be another glass."""

from __future__ import annotations

import pytest

from clam_core.errors import (
    FocalPlanesError,
    FramesMissingError,
    MissingMppError,
    NoVolumeError,
    OpticalPathsError,
    PyramidsError,
    SlideError,
)
from clam_core.slides import Slide
from tests.support.core_fakes import ArraySlide, glass_with_tissue
from worker.api.contract import Claim, Lease
from worker.sources.choice import open_with
from worker.sources.errors import IncompleteSlideError, SourceUnreachableError, TruncatedSlideError
from worker.sources.preflight_errors import (
    ColoursError,
    CompressionError,
    FrameOfReferenceError,
    HeaderIncompleteError,
    IccProfileError,
    PixelSizeError,
    PreflightError,
    TileSizeError,
)

CLAIM = Claim(request={}, lease=Lease("t", 1, 60.0, 15.0, 15.0), instances=())
FILE = ArraySlide(glass_with_tissue())


class Source:
    """A way that ends as the test says."""

    name = "a test's way"
    cost = "nothing"

    def __init__(self, outcome: Slide | SlideError) -> None:
        self.outcome = outcome

    def open(self, claim: Claim) -> Slide:
        if isinstance(self.outcome, SlideError):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    "failure",
    [
        NoVolumeError,
        IncompleteSlideError,
        TruncatedSlideError,
        HeaderIncompleteError,
        TileSizeError,
        FramesMissingError,
        CompressionError,
    ],
)
def test_a_file_stands_in_where_no_pyramid_can_be_read(failure: type[SlideError]) -> None:
    assert open_with([Source(failure("x"))], Source(FILE), CLAIM) is FILE


@pytest.mark.parametrize(
    "failure",
    [
        ColoursError,
        PixelSizeError,
        FrameOfReferenceError,
        IccProfileError,
        MissingMppError,
        OpticalPathsError,
        FocalPlanesError,
        PyramidsError,
        SourceUnreachableError,
    ],
)
def test_no_file_stands_in_for_a_slide_that_is_there_and_refused(failure: type[SlideError]) -> None:
    with pytest.raises(failure):
        open_with([Source(failure("x"))], Source(FILE), CLAIM)


def test_after_a_refusal_that_is_not_named_no_file_stands_in() -> None:
    with pytest.raises(PreflightError):
        open_with([Source(PreflightError("x"))], Source(FILE), CLAIM)
