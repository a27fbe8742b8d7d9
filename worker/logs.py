# SPDX-License-Identifier: Apache-2.0
"""The log: one line a message, for people or for machines, with the request's id and without any secret.

Nothing of a DICOM header but UIDs may reach a log: messages are written by this project's own code; of a
foreign exception only its type and the places in the code are logged, for its text may quote a file or a tag.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TextIO

from tqdm import tqdm

from .settings import LogFormat

_request_id: ContextVar[str] = ContextVar("request_id", default="-")

_HIDDEN = "***"


@contextlib.contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Put a request's id into every line that this thread logs inside the block."""
    mark = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(mark)


def configure(
    log_format: LogFormat,
    level: str,
    secrets: Sequence[str] = (),
    stream: TextIO | None = None,
    worker_id: str = "",
) -> None:
    """Send the log of this process to one stream.

    Parameters
    ----------
    log_format
        For people or for machines.
    level
        Name of the lowest level that is written.
    secrets
        Texts that are replaced wherever they would appear.
    stream
        By default standard error.
    worker_id
        Named in each line for machines: a collector has the lines of many workers.
    """
    handler = _BarFriendlyHandler(stream if stream is not None else sys.stderr)
    handler.addFilter(_Context(secrets))
    handler.setFormatter(JsonFormatter(worker_id) if log_format is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # These quote the tags, values and addresses they meet; so do the warnings of DICOM libraries.
    for name in ("pydicom", "highdicom", "wsidicom", "urllib3", "PIL", "fsspec"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # At DEBUG they write hundreds of kilobytes about themselves: the whole graph of an encoder in one line.
    for name in ("h5py", "openvino"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel(logging.CRITICAL)


def describe_foreign(error: BaseException) -> str:
    """Name an exception that is not ours by its type and place, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames))
    return f"{type(error).__module__}.{type(error).__qualname__} at {places or 'an unknown place'}"


class _Context(logging.Filter):
    """Adds the request's id and hides secrets."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        self._secrets = [secret for secret in secrets if secret]

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        for secret in self._secrets:
            message = message.replace(secret, _HIDDEN)
        record.msg, record.args = message, None
        record.request_id = _request_id.get()
        return True


class TextFormatter(logging.Formatter):
    """``TIME LEVEL [6f1c0a5e] message``: local time, and as much of the id as tells requests apart."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = dt.datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        request_id = str(getattr(record, "request_id", "-"))
        mark = "" if request_id == "-" else f"[{request_id[:8]}] "
        return f"{time} {record.levelname:<7} {mark}{record.getMessage()}{_trace(record)}"


class JsonFormatter(logging.Formatter):
    """A JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``worker``, ``request_id``, message."""

    def __init__(self, worker_id: str) -> None:
        super().__init__()
        self._worker_id = worker_id

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "worker": self._worker_id,
            "request_id": getattr(record, "request_id", "-"),
            "message": record.getMessage() + _trace(record),
        }
        return json.dumps(line, ensure_ascii=False)


def _trace(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return f" | {describe_foreign(error)}" if error else ""


class _BarFriendlyHandler(logging.Handler):
    """Writes above a progress bar instead of into it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=self._stream)
            self._stream.flush()
        except (OSError, ValueError):
            self.handleError(record)
