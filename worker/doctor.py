# SPDX-License-Identifier: Apache-2.0
"""Checks of everything that a worker needs; each that fails names the fix."""

from __future__ import annotations

import datetime as dt
import ipaddress
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from clam_core.errors import ClamCoreError
from worker import API_VERSION, __version__
from worker.errors import WorkerError
from worker.settings import Credentials, Settings
from worker.transport import make_session, unreachable

if TYPE_CHECKING:
    from worker.job import Analyzer

_NO_REQUEST = "0" * 32
_MIN_FREE_BYTES = 2 * 1024**3
_MAX_SKEW_S = 30.0
_TIMEOUT_S = (5.0, 15.0)


class Verdict(Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes
    ----------
    check
        Its name.
    verdict
        How it ended.
    message
        What was found, and the fix where one is needed.
    """

    check: str
    verdict: Verdict
    message: str


@dataclass(frozen=True)
class Doctor:
    """Examines a worker's settings, server, models and machine.

    Attributes
    ----------
    settings
        What to examine.
    load_analyzer
        Loads the models, as ``worker run`` would.
    now
        The time here, in UTC.
    """

    settings: Settings
    load_analyzer: Callable[[Settings], Analyzer]
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)

    def examine(self) -> Iterator[Finding]:
        """Yield the findings one by one, as they are made."""
        yield from self._settings()
        yield from self._server()
        yield self._models()
        yield self._disk()
        yield self._slides_folder()
        yield Finding(
            "versions",
            Verdict.OK,
            f"Worker {__version__}, Python {platform.python_version()}, {platform.system()}.",
        )

    def _settings(self) -> Iterator[Finding]:
        for warning in self.settings.warnings:
            yield Finding("settings", Verdict.WARNING, warning)
        if self.settings.worker is None:
            yield Finding("settings", Verdict.FAILED, _sentence_of(self.settings.require_worker))
        for name, url in (
            ("ORTHANC_URL", self.settings.orthanc_url),
            ("PATHOLOGY_API_URL", self.settings.api_url),
            ("DICOMWEB_URL", self.settings.dicomweb_url),
        ):
            if sends_password_in_clear(url):
                yield Finding(
                    "transport",
                    Verdict.FAILED,
                    f"{name} sends the password over plain http to another machine, where anybody on the way "
                    "can read it: put Orthanc behind TLS and use an https:// address.",
                )

    def _server(self) -> Iterator[Finding]:
        orthanc = self._orthanc()
        yield orthanc
        if orthanc.verdict is Verdict.FAILED:
            yield Finding("plugin", Verdict.SKIPPED, "Orthanc must answer first.")
            return
        yield self._clock()
        plugin = self._plugin()
        yield plugin
        if plugin.verdict is not Verdict.FAILED:
            yield self._role("worker's role", self.settings.worker, is_worker=True)
            yield self._role("person's role", self.settings.person, is_worker=False)

    def _orthanc(self) -> Finding:
        address = f"{self.settings.orthanc_url}/system"
        try:
            answer = self._get(address)
        except WorkerError as error:
            return Finding("Orthanc", Verdict.FAILED, f"{error} (ORTHANC_URL)")
        if answer.status_code == 401:
            return Finding(
                "Orthanc",
                Verdict.FAILED,
                f"{self.settings.orthanc_url} does not accept this user or password: check ORTHANC_USER and "
                "ORTHANC_PASSWORD against RegisteredUsers in Orthanc's configuration.",
            )
        try:
            version = answer.json()["Version"]
        except (ValueError, KeyError, TypeError):
            return Finding(
                "Orthanc",
                Verdict.FAILED,
                f"What answers at {self.settings.orthanc_url} is no Orthanc (status {answer.status_code}): "
                "check ORTHANC_URL.",
            )
        return Finding("Orthanc", Verdict.OK, f"Orthanc {version} at {self.settings.orthanc_url}.")

    def _clock(self) -> Finding:
        """Compare clocks: a proxy tells its time with each answer, Orthanc itself only persons who ask."""
        try:
            answer = self._get(f"{self.settings.orthanc_url}/tools/now", self.settings.person)
        except WorkerError as error:
            return Finding("clock", Verdict.SKIPPED, str(error))
        told = server_time(answer.headers.get("Date"), answer.text if answer.status_code == 200 else "")
        if told is None:
            return Finding(
                "clock", Verdict.SKIPPED, "The server tells its time to persons only: set SUBMIT_USER."
            )
        skew_s = (self.now() - told).total_seconds()
        if abs(skew_s) > _MAX_SKEW_S:
            return Finding(
                "clock",
                Verdict.WARNING,
                f"This machine's clock differs from the server's by {skew_s:+.0f} s: set up NTP on both, "
                "else the times in logs and histories mislead.",
            )
        return Finding("clock", Verdict.OK, "The clocks of this machine and of the server agree.")

    def _plugin(self) -> Finding:
        try:
            answer = self._get(f"{self.settings.api_url}/health")
            document = answer.json() if answer.status_code == 200 else {}
        except WorkerError as error:
            return Finding("plugin", Verdict.FAILED, f"{error} (PATHOLOGY_API_URL)")
        except ValueError:
            document = {}
        if answer.status_code == 503:
            return Finding("plugin", Verdict.WARNING, "The plugin is still starting: try again in a minute.")
        if not isinstance(document, dict) or "api" not in document:
            return Finding(
                "plugin",
                Verdict.FAILED,
                f"Nothing answers at {self.settings.api_url}/health (status {answer.status_code}): load the "
                "pathology plugin (PythonScript in orthanc.json), or correct PATHOLOGY_API_URL.",
            )
        if document["api"] != API_VERSION:
            return Finding(
                "plugin",
                Verdict.FAILED,
                f"The plugin speaks version {document['api']} of the contract, this worker {API_VERSION}: "
                "upgrade the older one.",
            )
        return Finding(
            "plugin", Verdict.OK, f"Plugin {document.get('version', '?')}, contract {API_VERSION}."
        )

    def _role(self, check: str, user: Credentials | None, *, is_worker: bool) -> Finding:
        """Ask about a request that cannot exist: workers are told so, persons are turned away before."""
        if user is None:
            setting = "ORTHANC_USER" if is_worker else "SUBMIT_USER"
            return Finding(check, Verdict.SKIPPED, f"{setting} is not set.")
        try:
            with make_session(user) as session:
                answer = session.post(
                    f"{self.settings.api_url}/update-status/{_NO_REQUEST}/",
                    json={"worker_id": self.settings.worker_id, "token": _NO_REQUEST, "fence": 0},
                    timeout=_TIMEOUT_S,
                )
        except requests.RequestException as error:
            return Finding(check, Verdict.FAILED, str(unreachable(self.settings.api_url, error)))
        if answer.status_code == 401:
            return Finding(check, Verdict.FAILED, f"Orthanc does not accept {user.user} or its password.")
        acts_as_worker = answer.status_code != 403
        if acts_as_worker == is_worker:
            return Finding(check, Verdict.OK, f"{user.user} is a {'worker' if is_worker else 'person'}.")
        if is_worker:
            fix = (
                f"{user.user} is no worker: name it in Pathology.Workers of orthanc.json and restart Orthanc."
            )
        else:
            fix = f"{user.user} is a worker and may not submit: set SUBMIT_USER to another user."
        return Finding(check, Verdict.FAILED, fix)

    def _models(self) -> Finding:
        try:
            analyzer = self.load_analyzer(self.settings)
        except (WorkerError, ClamCoreError) as error:
            return Finding("models", Verdict.FAILED, str(error))
        names = ", ".join(f"{offer.name} {offer.version}" for offer in analyzer.offers)
        if self.settings.device == "auto" and analyzer.device.startswith("cpu"):
            return Finding(
                "models",
                Verdict.WARNING,
                f"{names} on the CPU, for no GPU was found: a slide takes minutes. Install the driver and "
                "the build of torch for your GPU, or set DEVICE=cpu to say that this is meant.",
            )
        return Finding("models", Verdict.OK, f"{names} on {analyzer.device}.")

    def _disk(self) -> Finding:
        folder = _existing(self.settings.spool_dir)
        free = shutil.disk_usage(folder).free
        if free < _MIN_FREE_BYTES:
            return Finding(
                "disk",
                Verdict.WARNING,
                f"{free / 1024**3:.1f} GB are free at {folder}: free some, or set SPOOL_DIR elsewhere.",
            )
        return Finding("disk", Verdict.OK, f"{free / 1024**3:.0f} GB are free at {folder}.")

    def _slides_folder(self) -> Finding:
        folder = self.settings.svs_storage_dir
        if folder is None:
            return Finding(
                "slide files", Verdict.SKIPPED, "SVS_STORAGE_DIR is not set; DICOM slides need none."
            )
        if not folder.is_dir():
            return Finding(
                "slide files", Verdict.FAILED, f"SVS_STORAGE_DIR={folder} is no folder: correct it."
            )
        return Finding("slide files", Verdict.OK, f"{folder} is there.")

    def _get(self, url: str, user: Credentials | None = None) -> requests.Response:
        try:
            with make_session(user or self.settings.worker or self.settings.person) as session:
                return session.get(url, timeout=_TIMEOUT_S, allow_redirects=False)
        except requests.RequestException as error:
            raise unreachable(url, error) from error


def sends_password_in_clear(url: str) -> bool:
    """Return whether a password would leave this machine unencrypted."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def server_time(date_header: str | None, orthanc_now: str) -> dt.datetime | None:
    """Return the server's time from an HTTP Date, or from Orthanc's ``YYYYMMDDThhmmss`` (UTC), or None."""
    try:
        if date_header is not None:
            return parsedate_to_datetime(date_header)
        return dt.datetime.strptime(orthanc_now.strip(), "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
    except ValueError:
        return None


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _sentence_of(check: Callable[[], object]) -> str:
    try:
        check()
    except WorkerError as error:
        return str(error)
    return ""
