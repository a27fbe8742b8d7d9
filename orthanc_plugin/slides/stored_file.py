# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files as they lie in Orthanc's own storage folder, opened without trusting what is found there."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PREAMBLE_BYTES = 128
_MAGIC = b"DICM"


def stored_path(storage_directory: str, uuid: str) -> str | None:
    """Return where Orthanc keeps the attachment `uuid`, or None where this is no attachment's name."""
    if _UUID.fullmatch(uuid) is None:
        return None
    return os.path.join(storage_directory, uuid[0:2], uuid[2:4], uuid)  # noqa: PTH118 - a hot path


@contextmanager
def open_stored(storage_directory: str, uuid: str, size: int) -> Iterator[int | None]:
    """Open an attachment for `os.pread`; yield None where it does not lie there as a plain DICOM file.

    That is the case with compressed storage, with a storage plugin (S3, PostgreSQL), and where the file was
    deleted a moment ago. Links are not followed: whoever can write into the storage folder must not gain the
    rest of the disk.

    Parameters
    ----------
    storage_directory
        Folder of Orthanc's storage.
    uuid
        Name of the attachment.
    size
        Size in bytes that Orthanc's database has for the uncompressed file.
    """
    descriptor = _open(storage_directory, uuid)
    if descriptor is None:
        yield None
        return
    try:
        yield descriptor if _is_dicom_of(descriptor, size) else None
    finally:
        os.close(descriptor)


def read_stored(storage_directory: str, uuid: str) -> bytes:
    """Return what lies there of an attachment of any kind, found as `open_stored` does, or nothing."""
    descriptor = _open(storage_directory, uuid)
    if descriptor is None:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _open(storage_directory: str, uuid: str) -> int | None:
    path = stored_path(storage_directory, uuid)
    if path is None:
        return None
    try:
        # Non-blocking: a named pipe in the file's place must not hold an HTTP thread for ever.
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None


def _is_dicom_of(descriptor: int, size: int) -> bool:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        return False
    return os.pread(descriptor, len(_MAGIC), _PREAMBLE_BYTES) == _MAGIC
