# SPDX-License-Identifier: Apache-2.0
"""The second choice, where the plugin has no ranges route: whole instances into a scratch folder."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from pathlib import Path

import requests
from wsidicom import WsiDicom

from clam_core.slides import WSIDICOM_ERRORS, Slide, WsiDicomSlide
from worker.contract import Claim, InstanceRef
from worker.settings import Settings
from worker.sources.repeating import TryAgainError, Wait, changed, orthanc_failure, repeat
from worker.sources.volumes import check_complete, incomplete, volumes_of
from worker.transport import unreachable

_log = logging.getLogger(__name__)

_BLOCK = 1 << 20


class DownloadedSlide(WsiDicomSlide):
    """A slide in files of our own, which end with it.

    Parameters
    ----------
    wsi
        The opened series.
    folder
        Where its files lie.
    """

    def __init__(self, wsi: WsiDicom, folder: Path) -> None:
        super().__init__(wsi)
        self._folder = folder

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
        Folder for the files, or None for the system's own.
    wait
        Waits between repeats; by default an event that nobody sets.
    """

    name = "download of whole instances"

    def __init__(
        self,
        settings: Settings,
        session: requests.Session,
        scratch: Path | None = None,
        wait: Wait | None = None,
    ) -> None:
        self._settings = settings
        self._session = session
        self._scratch = scratch
        self._wait = wait if wait is not None else threading.Event().wait

    def open(self, claim: Claim) -> Slide:
        """Download and open the slide."""
        volumes = volumes_of(claim)
        _log.info(
            "Downloading the whole slide (%d files, %.1f MB).",
            len(volumes),
            sum(instance.size for instance in volumes) / 1e6,
        )
        folder = Path(tempfile.mkdtemp(prefix="slide-", dir=self._scratch))
        try:
            files = [self._download(instance, folder / f"{instance.id}.dcm") for instance in volumes]
            return _open(files, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _download(self, instance: InstanceRef, target: Path) -> Path:
        repeat(lambda: self._fetch(instance, target), self._wait)
        stored = repeat(lambda: self._stored_uuid(instance), self._wait)
        if stored != instance.uuid or target.stat().st_size != instance.size:
            raise changed()
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

    def _stored_uuid(self, instance: InstanceRef) -> str:
        """Return the name of the file that is stored now."""
        try:
            with self._get(f"/instances/{instance.id}/attachments/dicom/info") as answer:
                return str(answer.json().get("Uuid", ""))
        except requests.RequestException as error:
            raise self._dropped(error) from error

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


def _open(files: list[Path], folder: Path) -> DownloadedSlide:
    try:
        wsi = WsiDicom.open(files)
    except WSIDICOM_ERRORS as error:
        raise incomplete(len(files), len(files)) from error
    try:
        check_complete(wsi, [file.name for file in files])
        return DownloadedSlide(wsi, folder)
    except BaseException:
        wsi.close()
        raise
