# SPDX-License-Identifier: AGPL-3.0-or-later
"""Damaged values: kept where nothing overwrites them, before the plugin's own are begun afresh."""

from __future__ import annotations

from collections.abc import Callable

from orthanc_plugin.errors import StorageError


def set_aside(content: bytes, get: Callable[[], bytes | None], put: Callable[[bytes], None]) -> None:
    """Keep a damaged value, beside those that were kept before.

    Parameters
    ----------
    content
        The damaged value.
    get, put
        Read and write the place where damaged values are kept.

    Raises
    ------
    StorageError
        Where Orthanc fails, or where the copy is not what was written.
    """
    kept = get() or b""
    if kept.endswith(content):
        return
    value = kept + b"\n" + content if kept else content
    put(value)
    if get() != value:
        raise StorageError("The damaged value could not be copied.")
