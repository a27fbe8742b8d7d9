# SPDX-License-Identifier: Apache-2.0
"""Ends of requests kept on disk until the server has them: they outlive a cut network and a restart.

Each delivery is a folder, written under another name and renamed when complete, so that a crash leaves either
all of it or nothing that is read::

    SPOOL_DIR/WORKER_ID/6f1c...-3/delivery.json
                                  artifacts/heatmap.png

The folder holds lease tokens: only its owner may read it. Of the slide it knows UIDs and pictures of
tissue; what else stands in a header (the patient, the number on the glass) is left out, and what is sent
again lacks it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.api.contract import Lease
from worker.errors import SpoolError
from worker.jobs.delivery import Delivery, names_patient, without_header_values, without_patient_data

_log = logging.getLogger(__name__)

_SCHEMA = 1
_PARTIAL = ".partial"
_DOCUMENT = "delivery.json"


@dataclass(frozen=True)
class SpoolLimits:
    """Bounds of the spool.

    Attributes
    ----------
    max_bytes
        Bytes of everything in it; the oldest makes room.
    max_age_s
        Seconds after which a delivery is of no use to anybody.
    """

    max_bytes: int
    max_age_s: float


class Spool:
    """A folder of deliveries.

    Parameters
    ----------
    folder
        This worker's own folder; made when the first delivery comes.
    limits
        Its bounds.
    clock
        Seconds since the epoch, as files' times are.
    """

    def __init__(self, folder: Path, limits: SpoolLimits, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._set_aside: set[str] = set()
        self._stuck: set[str] = set()

    def store(self, delivery: Delivery) -> None:
        """Keep a delivery, making room for it first; DICOM objects are left out, for they name the patient.

        Raises
        ------
        SpoolError
            If it is larger than the whole spool, or the disk is full or not writable.
        """
        delivery = without_patient_data(delivery)
        if delivery.size > self._limits.max_bytes:
            raise SpoolError(
                f"A result of {delivery.size >> 20} MB does not fit into the spool: raise SPOOL_MAX_MB."
            )
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.tidy(room_for=delivery.size)
            self._write(delivery)
        except OSError as error:
            raise self._sentence(error) from error

    def replace_body(self, delivery: Delivery) -> None:
        """Put another body in place of the kept one, in one step.

        It may name DICOM objects: those are not kept, and must be at the server already.

        Raises
        ------
        SpoolError
            If the disk is full or not writable; the old body is kept.
        """
        target = self._path(delivery) / _DOCUMENT
        fresh = target.with_suffix(_PARTIAL)
        try:
            _write_durably(fresh, _document(delivery))
            fresh.replace(target)
        except OSError as error:
            raise self._sentence(error) from error

    def discard(self, delivery: Delivery) -> None:
        """Forget a delivery that arrived or that nobody wants any more."""
        try:
            _remove(self._path(delivery))
        except OSError as error:
            # It is sent once more at the next start, and the server answers that it has it.
            _log.warning("%s", self._sentence(error))

    def set_aside(self, name: str) -> None:
        """Pass over a delivery that this process cannot send; it is kept as long as the others.

        The next process tries it again: it may be of another version.
        """
        self._set_aside.add(name)

    def waiting(self) -> Iterator[Delivery]:
        """Read the deliveries, oldest first; what is no delivery is set aside with a line in the log.

        Raises
        ------
        SpoolError
            If the folder or a file cannot be read now: what it holds is kept. One file that stays unreadable
            must not keep the others until they are too old, so this comes after them.
        """
        try:
            entries = self._entries()
        except OSError as error:
            raise self._sentence(error) from error
        unreadable: OSError | None = None
        for path in entries:
            if path.name in self._set_aside:
                continue
            try:
                delivery = _read(path)
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                _log.warning(
                    "A spooled result (%s) is damaged, a copy, or of another version of the worker: it is "
                    "set aside, kept as long as others, and tried again at the next start.",
                    path.name,
                )
                self.set_aside(path.name)
            except OSError as error:
                unreadable = unreadable or error
            else:
                yield delivery
        if unreadable is not None:
            raise self._sentence(unreadable) from unreadable

    def tidy(self, room_for: int = 0) -> None:
        """Remove what is too old, then the oldest until `room_for` more bytes fit.

        Raises
        ------
        SpoolError
            If the folder cannot be read or changed.
        """
        try:
            self._tidy(room_for)
        except OSError as error:
            raise self._sentence(error) from error

    def _tidy(self, room_for: int) -> None:
        for path in self._folder.glob(f"*{_PARTIAL}"):
            self._give_up(path)
        kept = []
        for path in self._entries():
            if self._clock() - path.stat().st_mtime <= self._limits.max_age_s:
                kept.append((path, _size(path)))
            elif self._give_up(path):
                _log.warning("A spooled result (%s) grew too old to be sent and was removed.", path.name)
        excess = sum(size for _, size in kept) + room_for - self._limits.max_bytes
        for path, size in kept:
            if excess <= 0:
                break
            if self._give_up(path):
                _log.warning("A spooled result (%s) was removed to make room: raise SPOOL_MAX_MB.", path.name)
                excess -= size

    def _give_up(self, path: Path) -> bool:
        """Remove an entry, or else pass over it: another user's would keep all others from being sent."""
        try:
            _remove(path)
        except OSError as error:
            if path.name not in self._stuck:
                _log.error("%s cannot be removed (%s): remove it by hand.", path, error.strerror)
            self._stuck.add(path.name)
            self.set_aside(path.name)
            return False
        return True

    def _sentence(self, error: OSError) -> SpoolError:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return SpoolError(f"The disk of {self._folder} is full: free space or set SPOOL_DIR elsewhere.")
        return SpoolError(
            f"{self._folder} cannot be read or written ({error.strerror}): check SPOOL_DIR and its rights."
        )

    def _path(self, delivery: Delivery) -> Path:
        return self._folder / delivery.name

    def _entries(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        folders = [path for path in self._folder.iterdir() if path.is_dir() and path.suffix != _PARTIAL]
        return sorted(folders, key=lambda path: (path.stat().st_mtime, path.name))

    def _write(self, delivery: Delivery) -> None:
        path = self._path(delivery)
        partial = path.with_name(path.name + _PARTIAL)
        try:
            (partial / "artifacts").mkdir(mode=0o700, parents=True)
            for name, data in delivery.artifacts.items():
                _write_durably(partial / "artifacts" / name, data)
            _write_durably(partial / _DOCUMENT, _document(delivery))
            if path.exists():
                shutil.rmtree(path)
            partial.rename(path)
        except OSError:
            _remove(partial)
            raise


def _document(delivery: Delivery) -> bytes:
    delivery = without_header_values(delivery)
    document = {
        "schema": _SCHEMA,
        "request_id": delivery.request_id,
        "lease": dataclasses.asdict(delivery.lease),
        "body": dict(delivery.body),
    }
    return json.dumps(document, allow_nan=False).encode()


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> Delivery:
    document: dict[str, Any] = json.loads((path / _DOCUMENT).read_bytes(), parse_constant=_no_number)
    if document["schema"] != _SCHEMA:
        raise ValueError(document["schema"])
    if not isinstance(document["body"], dict):
        raise TypeError("body")
    names = [str(item["name"]) for item in document["body"].get("artifacts", [])]
    if any(Path(name).name != name or name in {"", ".."} for name in names):
        raise ValueError(names)
    delivery = Delivery(
        request_id=str(document["request_id"]),
        lease=Lease(**document["lease"]),
        body=document["body"],
        artifacts={
            name: (path / "artifacts" / name).read_bytes() for name in names if not names_patient(name)
        },
    )
    if delivery.name != path.name:
        # Once sent it would be looked for under its own name, and this folder sent again at each replay.
        raise ValueError(path.name)
    return delivery


def _no_number(text: str) -> float:
    """Refuse NaN and infinity: the server takes neither, and sending them would fail at every start."""
    raise ValueError(text)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
