# SPDX-License-Identifier: Apache-2.0
"""The third choice, of any vendor's server: DICOMweb (WADO-RS), frames in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import requests
from pydicom import Dataset
from wsidicom import WsiDicom

from clam_core.slides import OPENING, UNREADABLE_HEADER, Slide
from worker.api.contract import Claim
from worker.backoff import Wait, uninterrupted
from worker.settings import Settings

from .dicomweb_client import DicomwebFrames
from .errors import SourceBlockedError, SourceDeletedError, SourceRefusedError, WayMissingError
from .prefetching import FrameNumbers, PrefetchingSlide, Tile
from .preflight import check_slide
from .source import SourceReport
from .volumes import volumes_of


class DicomwebSlide(PrefetchingSlide):
    """A slide whose frames come from a DICOMweb server.

    Parameters
    ----------
    wsi
        The opened series.
    frames
        Fetches and keeps its frames.
    report
        Says what was fetched so far.
    """

    def __init__(self, wsi: WsiDicom, frames: DicomwebFrames, report: Callable[[], SourceReport]) -> None:
        super().__init__(wsi)
        self._frames = frames
        self._report = report
        self._numbers = [FrameNumbers(image) for image in self._images]
        self._uids = [str(level.default_instance.dataset.uids.instance) for level in wsi.pyramids[0]]

    def source_report(self) -> SourceReport:
        """Say how the slide was read, and what it cost so far."""
        return self._report()

    def _fetch(self, level: int, tiles: Sequence[Tile]) -> None:
        numbers = map(self._numbers[level].of, tiles)
        self._frames.fetch(self._uids[level], [number + 1 for number in numbers if number >= 0])


class DicomwebSource:
    """Slides by WADO-RS.

    Parameters
    ----------
    settings
        Addresses and time-outs.
    session
        An authenticated session.
    wait
        Waits between repeats.
    """

    name = "DICOMweb"
    cost = (
        "one request for each batch of tiles, for each of which Orthanc before 1.12 reads the whole image "
        "again; that the slide is replaced meanwhile is only noticed when the result is sent"
    )

    def __init__(self, settings: Settings, session: requests.Session, wait: Wait = uninterrupted) -> None:
        self._settings = settings
        self._session = session
        self._wait = wait

    def open(self, claim: Claim) -> Slide:
        """Open the slide; headers are read now, and a tile of each level."""
        uids = (claim.request.get("study_instance_uid"), claim.request.get("series_instance_uid"))
        if not all(uids):
            raise WayMissingError("The request does not name its study and series.")
        frames = DicomwebFrames(
            self._settings,
            self._session,
            (str(uids[0]), str(uids[1])),
            volumes_of(claim),
            self._wait,
        )
        notes = check_slide(self._headers(frames), claim.parameters)
        wsi = _open(frames, str(uids[0]), str(uids[1]))
        try:
            _check_complete(wsi, claim)
            traffic = frames.traffic
            return DicomwebSlide(
                wsi,
                frames,
                lambda: SourceReport("dicomweb", traffic.requests, traffic.bytes, notes),
            )
        except BaseException:
            wsi.close()
            raise

    @staticmethod
    def _headers(frames: DicomwebFrames) -> list[Dataset]:
        """Return the headers; a server without them has no DICOMweb, or not of this slide."""
        try:
            return frames.headers()
        except (SourceBlockedError, SourceDeletedError, SourceRefusedError) as error:
            raise WayMissingError(str(error)) from error


def _open(frames: DicomwebFrames, study: str, series: str) -> WsiDicom:
    try:
        return WsiDicom.open_web(frames, study, series, settings=OPENING)
    except UNREADABLE_HEADER as error:
        raise _not_this_way() from error


def _check_complete(wsi: WsiDicom, claim: Claim) -> None:
    """See that wsidicom took every level: it joins no concatenations, and leaves out what it cannot read."""
    wanted = {instance.sop_instance_uid for instance in volumes_of(claim)}
    opened = {str(dataset.uids.instance) for level in wsi.pyramids[0] for dataset in level.datasets}
    if wanted - opened:
        raise _not_this_way()


def _not_this_way() -> WayMissingError:
    return WayMissingError("Some of its images are stored in a form that is not read by DICOMweb.")
