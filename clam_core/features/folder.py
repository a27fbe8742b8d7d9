# SPDX-License-Identifier: Apache-2.0
"""Features on disk, shared by models and processes, within bounds.

::

    FOLDER/<digest of the key>/<process>-<random>.features

Every writer appends to a file of its own, so writers need no lock and cannot spoil each other's work; a
reader takes what all of them have completed so far (`segment`). So an entry needs no finishing: a run that
was killed leaves its share, and the next one goes on from there. The folder holds hashes and numbers, nothing
that names a slide or a patient.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clam_core.features.key import FeatureKey
from clam_core.features.segment import DamagedChunkError, chunks_in, packed
from clam_core.features.store import Chunk, FeatureEntry

_log = logging.getLogger(__name__)

_SUFFIX = ".features"
_STEP = 64 * 1024 * 1024
"""Bytes for which room is made at once: counting the folder costs more than writing a chunk."""
_RESERVE = 2 * 1024**3
"""Bytes of the disk that are left to others, such as results that wait for the network."""
_TIDY_EVERY_S = 3600.0


@dataclass(frozen=True)
class FolderLimits:
    """Bounds of the folder.

    Attributes
    ----------
    max_bytes
        Bytes of all entries; those that were not used for longest make room.
    max_age_s
        Seconds without use after which an entry goes in any case.
    reserve_bytes
        Bytes of the disk that stay free: entries make room for others as well.
    """

    max_bytes: int
    max_age_s: float
    reserve_bytes: int = _RESERVE


class FeatureFolder:
    """A folder of entries.

    Parameters
    ----------
    folder
        Made when the first features come; only its owner may read it.
    limits
        Its bounds.
    clock
        Seconds since the epoch, as files' times are.
    """

    def __init__(self, folder: Path, limits: FolderLimits, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._tidied_at = float("-inf")

    @contextmanager
    def open(self, key: FeatureKey, dim: int) -> Iterator[FeatureEntry]:
        """Open the entry of a key, which counts as its use; now and then what is too old goes."""
        path = self._folder / key.digest
        if self._clock() - self._tidied_at > _TIDY_EVERY_S:
            self.tidy()
        self._touch(path)
        entry = _FolderEntry(path, key.digest, dim, self._make_room)
        try:
            yield entry
        finally:
            entry.close()
            self._touch(path)

    def tidy(self, keep: Path | None = None, room_for: int = 0) -> float:
        """Remove entries that are too old, then the least used ones until `room_for` more bytes fit.

        Parameters
        ----------
        keep
            An entry that stays whatever its age.
        room_for
            Bytes that are to come.

        Returns
        -------
        float
            Bytes that are left over the bounds all the same; 0 or less where there is room.
        """
        self._tidied_at = self._clock()
        entries = [(path, *_use(path)) for path in _folders(self._folder)]
        excess = room_for + max(
            sum(size for _, _, size in entries) - self._limits.max_bytes,
            self._limits.reserve_bytes - _free_bytes(self._folder),
        )
        for path, used_at, size in sorted(entries, key=lambda entry: entry[1]):
            too_old = self._clock() - used_at > self._limits.max_age_s
            if path != keep and (too_old or excess > 0):
                shutil.rmtree(path, ignore_errors=True)
                # Measured again: where another process reads a file, Windows does not remove it.
                excess -= size - _use(path)[1]
        return excess

    def _make_room(self, path: Path, size: int) -> int:
        """Make room for an entry to grow by `size` bytes or a step; return how many it may, 0 for none."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        step = max(size, min(_STEP, self._limits.max_bytes // 16))
        return step if self.tidy(keep=path, room_for=step) <= 0 else 0

    def _touch(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            now = self._clock()
            os.utime(path, (now, now))


class _FolderEntry:
    """The files of one key: all of them are read, one is written."""

    def __init__(self, path: Path, key: str, dim: int, make_room: Callable[[Path, int], int]) -> None:
        self._path = path
        self._key = key
        self._dim = dim
        self._make_room = make_room
        self._file: BinaryIO | None = None
        self._room = 0
        self._keeps = True

    def chunks(self) -> Iterator[Chunk]:
        """Yield what every writer has completed; damage is cut off and said in the log."""
        for path in sorted(self._path.glob(f"*{_SUFFIX}")):
            try:
                with path.open("rb") as file:
                    yield from chunks_in(file, self._key, self._dim)
            except DamagedChunkError as damage:
                _cut(path, damage.offset)
            except OSError as error:
                _log.warning("Kept features cannot be read and are computed again: %s", _reason(error))

    def add(self, chunk: Chunk) -> None:
        """Append features; where that fails, the rest of this run is not kept."""
        if not self._keeps:
            return
        data = packed(chunk, self._key)
        try:
            self._append(data)
        except OSError as error:
            self._keeps = False
            _log.warning("Features are not kept from here on: %s", _reason(error))

    def close(self) -> None:
        """Close the file that was written."""
        if self._file is not None:
            self._file.close()

    def _append(self, data: bytes) -> None:
        if self._room < len(data):
            self._room = self._make_room(self._path, len(data))
        if self._room < len(data):
            self._keeps = False
            _log.warning("The cache has no room for more features of this slide: the rest is not kept.")
            return
        if self._file is None:
            self._path.mkdir(mode=0o700, exist_ok=True)
            # Unbuffered, and one call a chunk: whatever kills the process leaves whole chunks and one end.
            name = f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
            self._file = (self._path / name).open("xb", buffering=0)
        self._room -= len(data)
        if self._file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _cut(path: Path, offset: int) -> None:
    _log.warning("Kept features were damaged on the disk: those are dropped and computed again.")
    try:
        os.truncate(path, offset)
    except OSError as error:
        _log.warning("The damaged file could not be cut: %s", _reason(error))


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []


def _free_bytes(folder: Path) -> float:
    """Return what is free on the disk of a folder; without end where nobody can tell."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return math.inf


def _use(path: Path) -> tuple[float, int]:
    """Return when an entry was used last, and its bytes; another process may be removing it."""
    used_at, size = 0.0, 0
    with contextlib.suppress(OSError):
        used_at = path.stat().st_mtime
        for file in path.iterdir():
            status = file.stat()
            used_at, size = max(used_at, status.st_mtime), size + status.st_size
    return used_at, size


def _reason(error: OSError) -> str:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "the disk is full; free space, or set the cache elsewhere."
    return f"{error.strerror}; check the folder of the cache and its rights."
