# SPDX-License-Identifier: Apache-2.0
"""Checks of everything that a worker needs; each that fails names the fix."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from clam_core.errors import ClamCoreError
from worker import API_VERSION, __version__
from worker.api.server_clock import server_time, skew_warning
from worker.api.transport import make_session, passwords_in_clear, unreachable
from worker.errors import WorkerError
from worker.settings import Credentials, Settings

from . import machine as doctor_machine
from . import server as doctor_server
from .findings import Finding, Verdict

if TYPE_CHECKING:
    from worker.jobs.job import Analyzer

_NO_REQUEST = "0" * 32
_TIMEOUT_S = (5.0, 15.0)


@dataclass(frozen=True)
class Doctor:
    """Examines a worker's settings, server, models and machine.

    Attributes
    ----------
    settings
        What to examine.
    load_analyzer
        Loads the models, as ``pathology-worker run`` would.
    env_file
        Where the settings were read from, or None.
    gpu_memory
        Returns free and total bytes of the GPU that a worker's device names, or None where it is none.
    now
        The time here, in UTC.
    """

    settings: Settings
    load_analyzer: Callable[[Settings], Analyzer]
    env_file: Path | None = None
    gpu_memory: Callable[[str], tuple[int, int] | None] = lambda _device: None
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)

    def examine(self) -> Iterator[Finding]:
        """Yield the findings one by one, as they are made."""
        yield doctor_machine.settings_file(self.env_file, self.settings)
        yield from self._settings()
        yield doctor_machine.ca_file(os.environ)
        yield from self._server()
        yield from self._models()
        yield doctor_machine.spool(self.settings)
        yield doctor_machine.feature_cache(self.settings)
        yield doctor_machine.disk(self.settings)
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
        for sentence in passwords_in_clear(self.settings):
            yield Finding("transport", Verdict.FAILED, sentence)

    def _server(self) -> Iterator[Finding]:
        orthanc, orthanc_version = self._orthanc()
        yield orthanc
        if orthanc.verdict is Verdict.FAILED:
            yield Finding("plugin", Verdict.SKIPPED, "Orthanc must answer first.")
            return
        yield doctor_server.certificate(self.settings, self.now())
        yield self._clock()
        plugin, plugin_version = self._plugin()
        yield plugin
        if plugin.verdict is Verdict.OK:
            yield doctor_server.versions(orthanc_version, plugin_version)
            yield doctor_server.origin(self.settings)
        if plugin.verdict is not Verdict.FAILED:
            yield self._role("worker's role", self.settings.worker, is_worker=True)
            yield doctor_server.own_name(self.settings)
            yield self._role("person's role", self.settings.person, is_worker=False)

    def _orthanc(self) -> tuple[Finding, str]:
        """Return whether Orthanc answers, and its version."""
        url = self.settings.orthanc_url
        try:
            answer = self._get(f"{url}/system")
        except WorkerError as error:
            return Finding("Orthanc", Verdict.FAILED, f"{error} (ORTHANC_URL)"), ""
        if answer.status_code == 401:
            text = (
                f"{url} does not accept this user or password: check ORTHANC_USER and ORTHANC_PASSWORD "
                "against RegisteredUsers in Orthanc's configuration."
            )
            return Finding("Orthanc", Verdict.FAILED, text), ""
        try:
            version = str(answer.json()["Version"])
        except (ValueError, KeyError, TypeError):
            text = f"What answers at {url} is no Orthanc (status {answer.status_code}): check ORTHANC_URL."
            return Finding("Orthanc", Verdict.FAILED, text), ""
        return Finding("Orthanc", Verdict.OK, f"Orthanc {version} at {url}."), version

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
        warning = skew_warning((self.now() - told).total_seconds())
        if warning is not None:
            return Finding("clock", Verdict.WARNING, warning)
        return Finding("clock", Verdict.OK, "The clocks of this machine and of the server agree.")

    def _plugin(self) -> tuple[Finding, str]:
        """Return whether the plugin answers, and its version."""
        url = f"{self.settings.api_url}/health"
        try:
            answer = self._get(url)
            document = answer.json() if answer.status_code == 200 else {}
        except WorkerError as error:
            return Finding("plugin", Verdict.FAILED, f"{error} (PATHOLOGY_API_URL)"), ""
        except ValueError:
            document = {}
        if answer.status_code == 503:
            return Finding(
                "plugin", Verdict.WARNING, "The plugin is still starting: try again in a minute."
            ), ""
        if not isinstance(document, dict) or "api" not in document:
            text = (
                f"Nothing answers at {url} (status {answer.status_code}): load the pathology plugin "
                "(PythonScript in orthanc.json), or correct PATHOLOGY_API_URL."
            )
            return Finding("plugin", Verdict.FAILED, text), ""
        if document["api"] != API_VERSION:
            text = (
                f"The plugin speaks version {document['api']} of the contract, this worker {API_VERSION}: "
                "upgrade the older one."
            )
            return Finding("plugin", Verdict.FAILED, text), ""
        version = str(document.get("version", "?"))
        return Finding("plugin", Verdict.OK, f"Plugin {version}, contract {API_VERSION}."), version

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

    def _models(self) -> Iterator[Finding]:
        try:
            analyzer = self.load_analyzer(self.settings)
        except (WorkerError, ClamCoreError) as error:
            yield Finding("models", Verdict.FAILED, str(error))
            return
        yield self._device(analyzer)
        memory = self.gpu_memory(analyzer.device)
        if memory is not None:
            yield doctor_machine.gpu_memory(*memory)

    def _device(self, analyzer: Analyzer) -> Finding:
        names = ", ".join(f"{offer.name} {offer.version}" for offer in analyzer.offers)
        if self.settings.device == "auto" and analyzer.device.startswith("cpu"):
            return Finding(
                "models",
                Verdict.WARNING,
                f"{names} on the CPU, for no GPU was found: a slide takes minutes. Install the driver and "
                "the build of torch for your GPU, or set DEVICE=cpu to say that this is meant.",
            )
        return Finding("models", Verdict.OK, f"{names} on {analyzer.device}.")

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


def _sentence_of(check: Callable[[], object]) -> str:
    try:
        check()
    except WorkerError as error:
        return str(error)
    return ""
