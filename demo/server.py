# SPDX-License-Identifier: Apache-2.0
"""The demo's own Orthanc: its own folder, port and passwords, beside whatever else runs on the machine."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from .errors import DemoError

REPOSITORY = Path(__file__).resolve().parents[1]
ORTHANC = Path("/usr/sbin/Orthanc")
# Not 8042: an Orthanc of the user's own may sit there, or be started there later.
FIRST_PORT, LAST_PORT = 8142, 8241
START_SECONDS = 60.0
STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Credentials:
    """Passwords of the demo's two users, made once per folder."""

    person: str
    person_password: str
    worker: str
    worker_password: str

    @classmethod
    def load_or_make(cls, path: Path) -> Credentials:
        """Return those in `path`; make and keep new ones where there are none."""
        if path.exists():
            return cls(**json.loads(path.read_text("utf-8")))
        made = cls("admin", secrets.token_urlsafe(9), "worker", secrets.token_urlsafe(18))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(made), file)
        return made


@dataclass(frozen=True)
class RunningOrthanc:
    """Where the demo's Orthanc answers, and who may ask."""

    url: str
    credentials: Credentials
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def person(self) -> tuple[str, str]:
        """User and password of the person, as `requests` wants them."""
        return (self.credentials.person, self.credentials.person_password)

    def require_alive(self) -> None:
        """See that it runs.

        Raises
        ------
        DemoError
            If it has ended.
        """
        if self.process.poll() is not None:
            raise DemoError(f"Orthanc ended. Its log ({self.log}) ends:\n{last_lines(self.log)}")


def free_port() -> int:
    """Return the first port from 8142 on that nobody listens on; the same one each time, if it can be."""
    for port in range(FIRST_PORT, LAST_PORT + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise DemoError(f"No free port between {FIRST_PORT} and {LAST_PORT}. Stop one of the servers there.")


def orthanc_environment(folder: Path, port: int, credentials: Credentials) -> dict[str, str]:
    """Return the variables that `orthanc.json` reads."""
    storage = str(folder / "storage")
    # Of the user's variables none that orthanc.json reads, except where Debian's plugins lie.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name == "ORTHANC_PLUGINS" or not name.startswith(("ORTHANC_", "PATHOLOGY_"))
    }
    return {
        **inherited,
        "PATHOLOGY_HOME": str(REPOSITORY),
        "ORTHANC_NAME": "Pathology demo",
        "ORTHANC_STORAGE": storage,
        "ORTHANC_INDEX": storage,
        "ORTHANC_HTTP_PORT": str(port),
        "ORTHANC_USERNAME": credentials.person,
        "ORTHANC_PASSWORD": credentials.person_password,
        "ORTHANC_WORKER_USERNAME": credentials.worker,
        "ORTHANC_WORKER_PASSWORD": credentials.worker_password,
        "ORTHANC_STABLE_AGE": "2",
        "ORTHANC_DICOM_ENABLED": "false",
    }


@contextmanager
def running_orthanc(folder: Path) -> Iterator[RunningOrthanc]:
    """Start Orthanc on `folder` and stop it at the end.

    Raises
    ------
    DemoError
        Orthanc is not installed, or does not answer within a minute.
    """
    if not ORTHANC.exists():
        raise DemoError("Orthanc is not installed. Run: make system")
    credentials = Credentials.load_or_make(folder / "credentials.json")
    port = free_port()
    log = folder / "orthanc.log"
    environment = orthanc_environment(folder, port, credentials)
    with started([str(ORTHANC), str(REPOSITORY / "orthanc.json")], environment, log) as process:
        server = RunningOrthanc(f"http://127.0.0.1:{port}", credentials, log, process)
        _wait_until_ready(server)
        yield server


@contextmanager
def started(
    command: list[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside us with its output in `log`, and end it in good order.

    It gets a process group of its own: a Ctrl-C in the terminal is ours, and we end things in their order.
    Where we are killed it is asked to end all the same (Linux): an Orthanc left over would hold the database.
    """
    bound = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*bound, *command],
            env=dict(environment),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def last_lines(log: Path, count: int = 15) -> str:
    """Return the end of a log, for a message."""
    return "\n".join(log.read_text("utf-8", errors="replace").splitlines()[-count:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(server: RunningOrthanc) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        server.require_alive()
        try:
            if requests.get(f"{server.url}/pathology/health", auth=server.person, timeout=5).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise DemoError(f"Orthanc did not answer within {START_SECONDS:.0f} s. Its log: {server.log}")
