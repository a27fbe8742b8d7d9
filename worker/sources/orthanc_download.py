# SPDX-License-Identifier: Apache-2.0
"""The way where a server reads no part of a file: whole instances into a scratch folder."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

import requests
from pydicom import Dataset
from pydicom.misc import is_dicom
from wsidicom import WsiDicom

from clam_core.slides import OPENING, UNREADABLE_HEADER, Slide, WsiDicomSlide
from worker.api.contract import Claim, InstanceRef
from worker.api.transport import unreachable
from worker.backoff import Wait, uninterrupted
from worker.scratch import scratch_folder
from worker.settings import Settings

from .errors import SourceBlockedError
from .headers import read_header
from .preflight import check_slide
from .repeating import TryAgainError, changed, no_slide, orthanc_failure, repeat
from .source import SourceReport, Verified
from .stored_uuid import stored_uuid
from .volumes import check_complete, incomplete, volumes_of

_log = logging.getLogger(__name__)

_BLOCK = 1 << 20


class DownloadedSlide(WsiDicomSlide, Verified):
    """A slide in files of our own, which end with it.

    Parameters
    ----------
    wsi
        The opened series.
    folder
        Where its files lie.
    report
        What was downloaded.
    """

    def __init__(self, wsi: WsiDicom, folder: Path, report: SourceReport) -> None:
        super().__init__(wsi)
        self._folder = folder
        self._report = report

    def source_report(self) -> SourceReport:
        """Say how the slide was read, and what it cost."""
        return self._report

    def close(self) -> None:
        """Close the series and remove its files."""
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)


class OrthancDownloadSource:
    """Slides by downloading all their levels first.

    Parameters
    ----------
    settings
        Addresses and time-outs.
    session
        An authenticated session.
    scratch
        Folder for the files; by default the worker's own, which is swept when the worker starts.
    wait
        Waits between repeats.
    """

    name = "download of whole images"
    cost = "the whole slide crosses the network and lies on the worker's disk for a while"

    def __init__(
        self,
        settings: Settings,
        session: requests.Session,
        scratch: Path | None = None,
        wait: Wait = uninterrupted,
    ) -> None:
        self._settings = settings
        self._session = session
        self._scratch = scratch if scratch is not None else scratch_folder(settings)
        self._wait = wait

    def open(self, claim: Claim) -> Slide:
        """Download and open the slide."""
        volumes = volumes_of(claim)
        _log.info(
            "Downloading the whole slide (%d files, %.1f MB).",
            len(volumes),
            sum(instance.size for instance in volumes) / 1e6,
        )
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="slide-", dir=self._scratch))
        try:
            files = [self._download(instance, folder / f"{instance.id}.dcm") for instance in volumes]
            notes = check_slide([_header(file) for file in files], claim.parameters)
            size = sum(instance.size for instance in volumes)
            return _open(files, folder, SourceReport("download", len(files), size, notes))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _download(self, instance: InstanceRef, target: Path) -> Path:
        repeat(lambda: self._fetch(instance, target), self._wait)
        return target

    def _fetch(self, instance: InstanceRef, target: Path) -> None:
        try:
            with (
                self._get(f"/instances/{instance.id}/file", stream=True) as answer,
                target.open("wb") as file,
            ):
                for block in answer.iter_content(_BLOCK):
                    file.write(block)
        except requests.RequestException as error:
            raise self._dropped(error) from error
        if stored_uuid(self._settings, self._session, instance, self._wait) != instance.uuid:
            raise changed()
        if target.stat().st_size != instance.size:
            other = no_slide(self._settings.orthanc_url)
            # A page may be gone a moment later; a file would come again as it is, and may be gigabytes.
            raise SourceBlockedError(str(other)) if is_dicom(target) else other

    def _dropped(self, error: requests.RequestException) -> TryAgainError:
        return TryAgainError(str(unreachable(self._settings.orthanc_url, error)))

    def _get(self, path: str, *, stream: bool = False) -> requests.Response:
        """Get from Orthanc, uncompressed: gzip makes it fifteen times slower."""
        answer = self._session.get(
            self._settings.orthanc_url + path,
            headers={"Accept-Encoding": "identity"},
            timeout=(self._settings.connect_timeout_s, self._settings.read_timeout_s),
            allow_redirects=False,
            stream=stream,
        )
        if answer.status_code != 200:
            failure = orthanc_failure(answer, self._settings.orthanc_url)
            answer.close()
            raise failure
        return answer


def _header(path: Path) -> Dataset:
    with path.open("rb") as stream:
        return read_header(stream)


def _open(files: list[Path], folder: Path, report: SourceReport) -> DownloadedSlide:
    try:
        wsi = WsiDicom.open(files, settings=OPENING)
    except UNREADABLE_HEADER as error:
        raise incomplete(len(files), len(files)) from error
    try:
        check_complete(wsi, [file.name for file in files])
        return DownloadedSlide(wsi, folder, report)
    except BaseException:
        wsi.close()
        raise
