# SPDX-License-Identifier: Apache-2.0
"""One process per worker id and machine: two would end each other's long polls and share a spool."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from worker.errors import SettingsError
from worker.settings import Settings

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def hold_worker_id(settings: Settings) -> Iterator[None]:
    """Hold the worker's id on this machine; the operating system lets go of it however the process ends.

    Raises
    ------
    SettingsError
        If another process holds it, or the spool's folder cannot be written.
    """
    path = settings.spool_dir / f"{settings.worker_id}.lock"
    file = _open(path)
    with file:
        try:
            _try_lock(file)
        except OSError as error:
            raise SettingsError(
                f"A worker named {settings.worker_id} already runs on this machine: "
                "give each worker a WORKER_ID of its own."
            ) from error
        yield


def _open(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise SettingsError(
            f"{path.parent} cannot be written ({error.strerror}): check SPOOL_DIR and its rights."
        ) from error
