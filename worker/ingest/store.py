# SPDX-License-Identifier: Apache-2.0
"""Store DICOM files in Orthanc over its REST interface, as a person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from worker.api.transport import make_session, unreachable, which_settings
from worker.settings import Credentials

from .errors import IngestError

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 900.0
"""Orthanc answers after it has written and indexed the whole file."""


@dataclass(frozen=True)
class StoredInstance:
    """Where Orthanc keeps an instance.

    Attributes
    ----------
    instance, series, study
        Orthanc's ids.
    already_there
        Whether Orthanc had it before.
    """

    instance: str
    series: str
    study: str
    already_there: bool


class OrthancStore:
    """Orthanc as a place to store instances.

    Parameters
    ----------
    url
        Address of Orthanc.
    credentials
        A person's user, or None.
    """

    def __init__(self, url: str, credentials: Credentials | None) -> None:
        self.url = url.rstrip("/")
        self._credentials = credentials
        self._session = make_session(credentials)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def check(self) -> None:
        """See that Orthanc is there and lets this user in, before any work is done.

        Raises
        ------
        IngestError
            If not.
        """
        self._call("GET", "/system")

    def find_instance(self, sop_instance_uid: str) -> StoredInstance | None:
        """Return the stored instance of a UID, or None."""
        for found in self._call("POST", "/tools/lookup", data=sop_instance_uid.encode()).json():
            if found["Type"] == "Instance":
                series = self._call("GET", f"/instances/{found['ID']}/series").json()
                return StoredInstance(found["ID"], series["ID"], series["ParentStudy"], already_there=True)
        return None

    def store(self, path: Path, sent: Callable[[int], None]) -> StoredInstance:
        """Store one file.

        Parameters
        ----------
        path
            The DICOM file.
        sent
            Is called with the number of bytes of every block on its way.

        Raises
        ------
        IngestError
            If Orthanc cannot be reached, or does not take the file.
        """
        with path.open("rb") as file:
            body = _Counted(file, path.stat().st_size, sent)
            answer = self._call(
                "POST", "/instances", data=body, headers={"Content-Type": "application/dicom"}
            ).json()
        return StoredInstance(
            answer["ID"], answer["ParentSeries"], answer["ParentStudy"], answer["Status"] == "AlreadyStored"
        )

    def _call(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            answer = self._session.request(
                method,
                self.url + path,
                timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS),
                allow_redirects=False,
                **options,
            )
        except requests.RequestException as error:
            raise IngestError("orthanc_unreachable", str(unreachable(self.url, error))) from error
        if not 200 <= answer.status_code < 300:
            raise _refusal(answer, self.url, method, path, self._credentials)
        return answer


class _Counted:
    """A file of known length that tells how much of it was read; never in memory whole."""

    def __init__(self, file: Any, size: int, sent: Callable[[int], None]) -> None:
        self._file = file
        self._size = size
        self._sent = sent

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = -1) -> bytes:
        """Read a block."""
        block: bytes = self._file.read(size if size < 0 else max(size, 1 << 16))
        self._sent(len(block))
        return block


def _refusal(
    answer: requests.Response, url: str, method: str, path: str, user: Credentials | None
) -> IngestError:
    status = answer.status_code
    host = urlsplit(url).netloc
    if status == 401:
        wish = which_settings(user) if user else "set SUBMIT_USER and SUBMIT_PASSWORD to a user of Orthanc"
        return IngestError(
            "orthanc_unauthorized", f"{host} does not accept the user or the password: {wish}."
        )
    if status == 403:
        return IngestError(
            "orthanc_refused",
            f"{host} does not let this user store slides: set SUBMIT_USER and SUBMIT_PASSWORD to a person's "
            "user, workers may not store.",
        )
    details = _details(answer)
    if status == 507 or "full" in details.lower():
        return IngestError(
            "orthanc_refused", f"{host} has no room left for the slide: free space on its storage."
        )
    if status == 400 and path == "/instances":
        return IngestError(
            "unreadable",
            f"{host} cannot read a file of the slide as DICOM{details and f' ({details})'}: it is damaged or "
            "incomplete; copy or export it again from the scanner.",
        )
    return IngestError(
        "orthanc_refused",
        f"{host} refused {method} {path} with {status}{details and f' ({details})'}: "
        "see Orthanc's log, and the limits of any proxy in front of it.",
    )


def _details(answer: requests.Response) -> str:
    """Return Orthanc's own words about an error."""
    try:
        document = answer.json()
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    return str(document.get("Details") or document.get("error") or document.get("Message") or "")
