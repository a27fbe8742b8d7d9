# SPDX-License-Identifier: Apache-2.0
"""A real Orthanc in a folder of its own, with the repository's configuration and plugin."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
SUITE = os.environ.get("ORTHANC_SUITE", "/")
"""Folder with the Debian whose Orthanc is tested (`tests/orthanc-versions.sh`); by default this machine's."""
CONFIGURATION = ROOT / "orthanc.json"
ORTHANC = Path("/usr/sbin/Orthanc")
PLUGINS = Path("/usr/share/orthanc/plugins")
PACKAGES = {
    "orthanc": ORTHANC,
    "orthanc-python": PLUGINS / "libOrthancPython.so",
    "orthanc-dicomweb": PLUGINS / "libOrthancDicomWeb.so",
    "orthanc-wsi": PLUGINS / "libOrthancWSI.so",
}
START_SECONDS = 60.0
STOP_SECONDS = 20.0


def require_orthanc() -> None:
    """Skip the test where Debian's Orthanc is not installed, naming the packages."""
    missing = [package for package, path in PACKAGES.items() if not path.exists()]
    if missing:
        pytest.skip(f"needs a real Orthanc: apt-get install {' '.join(missing)}")


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Put environment variables in place of ``${NAME}`` and ``${NAME:-default}``, as Orthanc does."""

    def value(match: re.Match[str]) -> str:
        return environment.get(match["name"], match["default"] or "")

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}", value, text)


def parse_configuration(text: str) -> dict[str, Any]:
    """Return a configuration of Orthanc, whose whole-line ``//`` comments are no JSON."""
    value = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert isinstance(value, dict)
    return value


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `overrides` laid over it; objects are merged, None removes a key."""
    merged = dict(base)
    for key, value in overrides.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


class OrthancServer:
    """A real Orthanc on free ports, started on entry and ended with its folder on exit.

    Parameters
    ----------
    overrides
        Values laid over ``orthanc.json`` (objects are merged, None removes a key). Without any, Orthanc
        reads the file itself as it is.
    environment
        Further environment variables of the process.
    script
        Another Python script in place of the plugin.
    """

    def __init__(
        self,
        *,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        script: Path | None = None,
    ) -> None:
        require_orthanc()
        # Removed on exit; an exception between here and there leaves a warning, as it should.
        self._temporary = tempfile.TemporaryDirectory(prefix="orthanc-test-")
        self.folder = Path(self._temporary.name)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.person = ("admin", secrets.token_urlsafe(12))
        self.worker = ("worker", secrets.token_urlsafe(12))
        self.environment = {**self._base_environment(), **(environment or {})}
        changes: dict[str, Any] = dict(overrides or {})
        if script is not None:
            changes["PythonScript"] = str(script)
        self.configuration = self._configuration(changes)
        self._process: subprocess.Popen[bytes] | None = None

    def _base_environment(self) -> dict[str, str]:
        storage = str(self.folder / "storage")
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.folder),
            "PATHOLOGY_HOME": str(ROOT),
            "ORTHANC_NAME": "Test",
            "ORTHANC_STORAGE": storage,
            "ORTHANC_INDEX": storage,
            "ORTHANC_HTTP_PORT": str(self.port),
            "ORTHANC_USERNAME": self.person[0],
            "ORTHANC_PASSWORD": self.person[1],
            "ORTHANC_WORKER_USERNAME": self.worker[0],
            "ORTHANC_WORKER_PASSWORD": self.worker[1],
            "ORTHANC_DICOM_PORT": str(free_port()),
            "ORTHANC_STABLE_AGE": "1",
        }

    def _configuration(self, overrides: Mapping[str, Any]) -> Path:
        if not overrides:
            return CONFIGURATION
        parsed = parse_configuration(expand(CONFIGURATION.read_text("utf-8"), self.environment))
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(merge(parsed, overrides), indent=1), "utf-8")
        return path

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def discard(self) -> None:
        """End the server and remove its folder."""
        self.stop()
        self._temporary.cleanup()

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start the server and, unless told otherwise, wait until it answers ``/system``."""
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*(() if SUITE == "/" else ("chroot", SUITE)), str(ORTHANC), str(self.configuration)],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until ``/system`` answers; fail with the log where the server ended instead."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.exit_code() is not None:
                self._process = None
                pytest.fail(f"Orthanc ended at start:\n{self.log()[-4000:]}")
            if self._answers():
                return
            time.sleep(0.05)
        self.stop()
        pytest.fail(f"Orthanc did not answer within {START_SECONDS:.0f} s:\n{self.log()[-4000:]}")

    def _answers(self) -> bool:
        try:
            # A refusal is an answer too: some tests let nobody in.
            return requests.get(f"{self.url}/system", auth=self.person, timeout=5).status_code < 500
        except requests.ConnectionError:
            return False

    def exit_code(self) -> int | None:
        """Return the code the server ended with, or None while it runs."""
        assert self._process is not None, "the server was not started"
        return self._process.poll()

    def wait_end(self, seconds: float = START_SECONDS) -> int:
        """Wait until the server ends by itself; return its code."""
        assert self._process is not None, "the server was not started"
        return self._process.wait(seconds)

    def stop(self, signal_number: int = signal.SIGTERM) -> int | None:
        """End the server and wait for it; kill it where it does not end by itself.

        Return its exit status, negative where a signal ended it; None where it did not run.
        """
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        status = self._process.wait()
        self._process = None
        return status

    def restart(self) -> None:
        """Stop the server in good order and start it again on the same port and folder."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """End the server with SIGKILL and start it again on the same port and folder."""
        self.stop(signal.SIGKILL)
        self.start()

    def log(self) -> str:
        """Return everything the server has logged, over all its starts."""
        path = self.folder / "orthanc.log"
        return path.read_text("utf-8", errors="replace") if path.exists() else ""

    def get(self, path: str, *, auth: tuple[str, str] | None = None, **options: Any) -> requests.Response:
        """GET a path, as the person unless `auth` says otherwise."""
        return self.request("GET", path, auth=auth, **options)

    def post(self, path: str, *, auth: tuple[str, str] | None = None, **options: Any) -> requests.Response:
        """POST to a path, as the person unless `auth` says otherwise."""
        return self.request("POST", path, auth=auth, **options)

    def delete_all(self) -> None:
        """Delete all patients, and with them every slide and its requests."""
        for patient in self.get("/patients").json():
            self.request("DELETE", f"/patients/{patient}").raise_for_status()

    def request(
        self, method: str, path: str, *, auth: tuple[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """Send a request, as the person unless `auth` says otherwise."""
        options.setdefault("timeout", 60)
        return requests.request(method, f"{self.url}{path}", auth=auth or self.person, **options)


def store_file(server: OrthancServer, path: Path) -> dict[str, Any]:
    """Store one DICOM file; return Orthanc's answer (``ID``, ``ParentSeries``, ``ParentStudy``, ...)."""
    answer = server.post("/instances", data=path.read_bytes())
    answer.raise_for_status()
    value = answer.json()
    assert isinstance(value, dict)
    return value


def store_slide(server: OrthancServer, folder: Path) -> str:
    """Store a folder of DICOM files that make up one slide; return the Orthanc id of its series."""
    series = {store_file(server, path)["ParentSeries"] for path in sorted(folder.glob("*.dcm"))}
    assert len(series) == 1, f"{folder} holds {len(series)} series"
    return str(series.pop())
