# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can go wrong, as the HTTP contract names it (docs/rest.md).

PluginError
├── SettingsError          the configuration is wrong: the plugin does not start
├── StorageError           Orthanc's database or disk refused a read or a write
│   ├── FileRefusedError   Orthanc refuses a file for what it is; it will refuse it again
│   ├── CutOffError        a file is shorter than Orthanc's database says, and Orthanc reads none of it
│   └── UnknownTagError    Orthanc knows no DICOM tag of a name that it was asked for
└── ApiError               an answer to a client: status, code, sentence
    └── BusyError          another call is at the same request; it is seen to, or to be sent again
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class PluginError(Exception):
    """Root of everything this package raises on purpose."""


class SettingsError(PluginError):
    """A key of the `Pathology` section is unknown or has a bad value."""


class StorageError(PluginError):
    """Orthanc could not read or write; nothing was changed as far as is known."""


class FileRefusedError(StorageError):
    """Orthanc takes no such DICOM file, however often it is sent."""


class CutOffError(StorageError):
    """A stored file is shorter than Orthanc takes it for; 1.13 reads none of it, 1.12 what is there."""


class UnknownTagError(StorageError):
    """Orthanc knows no DICOM tag of this name, however often it is asked."""


class ApiError(PluginError):
    """An answer that is not a success.

    Parameters
    ----------
    status
        HTTP status, 400 to 503.
    code
        Machine-readable name of the error, stable across versions.
    message
        One sentence that tells the client what to do.
    headers
        Further headers, such as ``Retry-After`` or ``Allow``.
    details
        Further members of the JSON answer, such as ``candidates``.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.details = dict(details or {})


class BusyError(ApiError):
    """Another call stores or deletes the results of the same request right now."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "too_busy",
            "Another call is at the results of this request right now. Send the same again.",
            headers={"Retry-After": "1"},
        )
