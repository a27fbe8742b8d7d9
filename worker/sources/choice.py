# SPDX-License-Identifier: Apache-2.0
"""Which source a request's slide is opened with."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import requests

from clam_core.errors import FramesMissingError, NoVolumeError, SlideError
from clam_core.slides import Slide
from worker.api.contract import Claim
from worker.settings import Settings

from .dicomweb import DicomwebSource
from .errors import (
    FragmentedFramesError,
    IncompleteSlideError,
    NoSlideFileError,
    SourceError,
    TruncatedSlideError,
    WayMissingError,
)
from .http_range import HttpRangeClient, HttpRangeSource
from .orthanc_download import OrthancDownloadSource
from .orthanc_ranges import OrthancRangesSource
from .preflight_errors import CompressionError, HeaderIncompleteError, TileSizeError
from .ranges_client import RangesClient
from .slide_folder import SlideFolderSource
from .source import SlideSource

_log = logging.getLogger(__name__)

_NO_READABLE_PYRAMID = frozenset(
    {
        SlideError,
        SourceError,
        NoVolumeError,
        HeaderIncompleteError,
        TileSizeError,
        FramesMissingError,
        CompressionError,
        IncompleteSlideError,
        TruncatedSlideError,
        FragmentedFramesError,
    }
)
"""Failures after which a file may stand in, each by itself and not by its kind.

After any other, such as an unstained slide or a server that does not answer, a file that is found by its name
would hide what is wrong.
"""


def open_request_slide(settings: Settings, session: requests.Session, claim: Claim) -> Slide:
    """Open the slide of a claimed request: from Orthanc, else from SVS_STORAGE_DIR.

    Parameters
    ----------
    settings
        Addresses, time-outs and the folder of slide files.
    session
        A session that authenticates as the worker.
    claim
        The request with the instances of its series.

    Returns
    -------
    Slide
        The open slide; whoever got it closes it.

    Raises
    ------
    SlideError
        With a `code` for the request's error and a sentence that says what to do.
    """
    dicom: Sequence[SlideSource] = (
        OrthancRangesSource(RangesClient(settings, session)),
        HttpRangeSource(HttpRangeClient(settings, session)),
        DicomwebSource(settings, session),
        OrthancDownloadSource(settings, session),
    )
    folder = None
    if settings.svs_storage_dir is not None:
        folder = SlideFolderSource(settings.svs_storage_dir, settings, session)
    return open_with(dicom, folder, claim)


def open_with(dicom: Sequence[SlideSource], folder: SlideSource | None, claim: Claim) -> Slide:
    """Open a slide with the first source that the server offers, or with the folder where that is no slide.

    Raises
    ------
    SlideError
        If no source can.
    """
    try:
        return _open_dicom(dicom, claim)
    except SlideError as failure:
        if folder is None or type(failure) not in _NO_READABLE_PYRAMID:
            raise
        _log.info("The stored DICOM cannot be read (%s); looking for a %s.", failure.code, folder.name)
        return _open_file(folder, claim, failure)


def _open_dicom(sources: Sequence[SlideSource], claim: Claim) -> Slide:
    for source, following in itertools.pairwise(sources):
        try:
            return source.open(claim)
        except WayMissingError as missing:
            _log.warning(
                "The slide cannot be read by %s (%s) It is tried by %s, which costs: %s.",
                source.name,
                missing,
                following.name,
                following.cost,
            )
    return sources[-1].open(claim)


def _open_file(folder: SlideSource, claim: Claim, failure: SlideError) -> Slide:
    try:
        return folder.open(claim)
    except NoSlideFileError as error:
        raise NoSlideFileError(f"{failure} {error}") from failure
