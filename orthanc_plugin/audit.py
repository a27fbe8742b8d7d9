# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who did what, one line each, appended outside the database: a file or syslog."""

from __future__ import annotations

import errno
import logging
import logging.handlers
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from json.encoder import encode_basestring_ascii as _text
from pathlib import Path
from typing import Protocol

from .errors import SettingsError
from .queue.values import Event

SYSLOG = "syslog"

_MENDED_WHILE_IT_RUNS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE})
FILE_NAME = "pathology-audit.log"


class Audit(Protocol):
    """Where the lines go; a sink that fails says so in Orthanc's log and holds nobody up."""

    def write(self, *events: Event, request_id: str = "", series: str = "", user: str = "") -> None:
        """Append a line for each event.

        `user` is who was signed in, ``""`` where nobody was: the plugin acted by itself. `Event.by` may be
        the name that a worker gives itself.
        """


def line_of(event: Event, request_id: str, series: str, user: str) -> str:
    """Return an audit line: one JSON object, without line breaks."""
    # By hand, in a third of the time that an encoder takes: every transition writes one or two.
    return (
        f'{{"at":{event.at!r},"event":{_text(event.event)},"by":{_text(event.by)},'
        f'"request_id":{_text(request_id)},"series":{_text(series)},'
        f'"detail":{_text(event.detail)},"user":{_text(user)}}}'
    )


_KEPT_OPEN_S = 1.0


class FileAudit:
    """Appends to a file that only its owner may read.

    It is opened anew for a line that comes a second or more after it was opened, so that it may be rotated.
    Lines that arrive while another thread writes are written together after it: each call of the system gives
    Python's lock away, and there may be a queue for it.
    """

    def __init__(
        self, path: Path, warn: Callable[[str], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._warn = warn
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._waiting: deque[str] = deque()
        self._file: int | None = None
        self._opened = 0.0
        self._torn = b""

    def write(self, *events: Event, request_id: str = "", series: str = "", user: str = "") -> None:
        """Append a line for each event, and return when they are in the file; see `Audit`."""
        # One item, so that what one transition brings stays together.
        self._waiting.append("".join(line_of(event, request_id, series, user) + "\n" for event in events))
        with self._lock:
            lines = "".join(self._waiting.popleft() for _ in range(len(self._waiting)))
            if not lines:  # whoever had the lock before has written ours
                return
            try:
                self._append(self._current(), lines.encode("ascii"))
            except OSError as error:
                self._warn(f"The audit could not write {lines.strip()}: {error}.")
                self.close()

    def _current(self) -> int:
        now = self._monotonic()
        if self._file is not None and now - self._opened < _KEPT_OPEN_S:
            return self._file
        self.close()
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._opened = now
        return self._file

    def _append(self, descriptor: int, lines: bytes) -> None:
        left = self._torn + lines
        while left:
            left = left[os.write(descriptor, left) :]
            self._torn = b"\n" if left else b""  # a full disk takes a part, and refuses the rest

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        if self._file is None:
            return
        descriptor, self._file = self._file, None  # whatever closing says, the number is free by then
        try:
            os.close(descriptor)
        except OSError as error:  # a file system may tell here that earlier lines did not arrive
            self._warn(f"The audit may have lost lines: {error}.")


class _SyslogHandler(logging.handlers.SysLogHandler):
    """The standard library's, which would tell on standard error what it cannot send."""

    def __init__(self, address: str, warn: Callable[[str], None]) -> None:
        super().__init__(address, facility="authpriv")
        self._warn = warn

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class' name
        """Say in Orthanc's log what the audit lacks."""
        self._warn(f"The audit could not write {record.getMessage()}: {sys.exc_info()[1]}.")


class SyslogAudit:
    """Hands the lines to the machine's syslog, also to one that begins later."""

    def __init__(self, warn: Callable[[str], None], address: str = "/dev/log") -> None:
        handler = _SyslogHandler(address, warn)
        handler.setFormatter(logging.Formatter("orthanc-pathology: %(message)s"))
        self._logger = logging.getLogger("orthanc-pathology-audit")
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(handler)

    def write(self, *events: Event, request_id: str = "", series: str = "", user: str = "") -> None:
        """Append a line for each event; see `Audit`."""
        for event in events:
            self._logger.info("%s", line_of(event, request_id, series, user))


def open_audit(setting: str | None, storage_directory: str, warn: Callable[[str], None]) -> Audit:
    """Return the sink that the `Audit` setting names; by default a file in Orthanc's storage folder.

    Raises
    ------
    SettingsError
        Where the setting names what cannot be written. A disk that is full or fails is no matter of the
        setting, and may be mended while Orthanc runs.
    """
    if setting == SYSLOG:
        return SyslogAudit(warn)
    if setting is not None:
        _refuse_unwritable(Path(setting))
    return FileAudit(Path(setting or Path(storage_directory) / FILE_NAME), warn)


def _refuse_unwritable(path: Path) -> None:
    # Not blocking: a pipe that nobody reads would hold up Orthanc's start.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
    try:
        os.close(os.open(path, flags, 0o600))
    except OSError as error:
        if error.errno in _MENDED_WHILE_IT_RUNS:
            return
        raise SettingsError(
            f"Pathology.Audit names a file that cannot be written ({error}). Name one in a folder that is "
            "there and that Orthanc's user may write to."
        ) from error
