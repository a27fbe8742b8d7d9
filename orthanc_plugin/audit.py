# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who did what, one line each, appended outside the database: a file or syslog."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from .values import Event

SYSLOG = "syslog"
FILE_NAME = "pathology-audit.log"


class Audit(Protocol):
    """Where the lines go; a sink that fails says so in Orthanc's log and holds nobody up."""

    def write(self, *events: Event, request_id: str = "", series: str = "") -> None:
        """Append a line for each event."""


_encode = json.JSONEncoder(separators=(",", ":")).encode


def line_of(event: Event, request_id: str, series: str) -> str:
    """Return an audit line: one JSON object, without line breaks."""
    value = {
        "at": event.at,
        "event": event.event,
        "by": event.by,
        "request_id": request_id,
        "series": series,
        "detail": event.detail,
    }
    return _encode(value)


class FileAudit:
    """Appends to a file that only its owner may read; opened for every write, so that it may be rotated.

    What one transition brings is one write: each call of the system gives Python's lock away, and there may
    be a queue for it.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._lock = threading.Lock()
        self._torn = b""

    def write(self, *events: Event, request_id: str = "", series: str = "") -> None:
        """Append a line for each event; see `Audit`."""
        lines = "".join(line_of(event, request_id, series) + "\n" for event in events)
        try:
            with self._lock:
                self._append(lines.encode("ascii"))
        except OSError as error:
            self._warn(f"The audit could not write {lines.strip()}: {error}.")

    def _append(self, lines: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        lines = self._torn + lines
        try:
            while lines:
                lines = lines[os.write(descriptor, lines) :]
                self._torn = b"\n" if lines else b""  # a full disk takes a part, and refuses the rest
        finally:
            os.close(descriptor)


class SyslogAudit:
    """Hands the lines to the machine's syslog."""

    def __init__(self, address: str = "/dev/log") -> None:
        handler = logging.handlers.SysLogHandler(address, facility="authpriv")
        handler.setFormatter(logging.Formatter("orthanc-pathology: %(message)s"))
        self._logger = logging.getLogger("orthanc-pathology-audit")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(handler)

    def write(self, *events: Event, request_id: str = "", series: str = "") -> None:
        """Append a line for each event; see `Audit`."""
        for event in events:
            self._logger.info("%s", line_of(event, request_id, series))


def open_audit(setting: str | None, storage_directory: str, warn: Callable[[str], None]) -> Audit:
    """Return the sink that the `Audit` setting names; by default a file in Orthanc's storage folder."""
    if setting == SYSLOG:
        return SyslogAudit()
    return FileAudit(Path(setting or Path(storage_directory) / FILE_NAME), warn)
