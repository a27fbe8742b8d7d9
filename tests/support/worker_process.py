# SPDX-License-Identifier: Apache-2.0
"""The worker as its own process, as a lab runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from tests.support.orthanc_server import OrthancServer
from tests.support.wait import wait_until

STOP_SECONDS = 60.0


class WorkerProcess:
    """``python -m worker run`` against a server, in a folder of its own.

    Parameters
    ----------
    url
        Address of Orthanc.
    worker, person
        User and password of the worker and of the person.
    folder
        Empty folder for spool and log.
    environment
        Further settings, laid over the usual ones.
    options
        Options of ``pathology-worker run``.
    """

    def __init__(
        self,
        url: str,
        *,
        worker: tuple[str, str],
        person: tuple[str, str],
        folder: Path,
        worker_id: str = "test-worker",
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.options = tuple(options)
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        # Some libraries keep quiet where CI is set: a worker in a lab has no such name in its environment.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PATHOLOGY_") and name != "CI"
        }
        self.environment = {
            **inherited,
            "ORTHANC_URL": url,
            "ORTHANC_USER": worker[0],
            "ORTHANC_PASSWORD": worker[1],
            "SUBMIT_USER": person[0],
            "SUBMIT_PASSWORD": person[1],
            "MODEL_PATH": "demo",
            "DEVICE": "cpu",
            "WORKER_ID": worker_id,
            "SPOOL_DIR": str(folder / "spool"),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def at(
        cls,
        server: OrthancServer,
        folder: Path,
        *,
        worker_id: str = "test-worker",
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> Self:
        """Return a worker of a server, which it reaches without anything in between."""
        return cls(
            server.url,
            worker=server.worker,
            person=server.person,
            folder=folder,
            worker_id=worker_id,
            environment=environment,
            options=options,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the daemon."""
        with (self.folder / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run", *self.options],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self, signal_number: int = signal.SIGTERM) -> int | None:
        """End the daemon and return its exit code; None where it did not run."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process = None
        return code

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self._process is not None, "the worker is not running"
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the code the daemon ended with, or None while it runs."""
        assert self._process is not None, "the worker was not started"
        return self._process.poll()

    def command(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run another command of the worker with the same settings."""
        return subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def log(self) -> str:
        """Return everything the daemon has logged."""
        path = self.folder / "worker.log"
        return path.read_text("utf-8", errors="replace") if path.exists() else ""

    def wait_until(self, holds: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something holds; fail with the log where it does not."""
        wait_until(holds, seconds, told=self.log)


STARTING = 503
"""What a plugin answers that has not read its requests yet."""


def wait_until_ended(
    url: str, person: tuple[str, str], request_id: str, *, seconds: float = 180
) -> dict[str, object]:
    """Return the request once it is completed, failed or cancelled."""
    deadline = time.monotonic() + seconds
    request: dict[str, object] = {}
    while time.monotonic() < deadline:
        answer = requests.get(f"{url}/pathology/requests/{request_id}", auth=person, timeout=30)
        if answer.status_code != STARTING:
            answer.raise_for_status()
            request = answer.json()["request"]
            if request["status"] in {"completed", "failed", "cancelled"}:
                return request
        time.sleep(0.2)
    raise AssertionError(f"not ended within {seconds:.0f} s: {request}")
