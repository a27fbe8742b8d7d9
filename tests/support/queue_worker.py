# SPDX-License-Identifier: AGPL-3.0-or-later
"""A worker of the driven queue: what it remembers of a claim, and the files of its results."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.support.queue_client import PNG, RESULT, named
from tests.support.tiny_dicom import tiny_result

STUDY_UID = "1.2.3"


def _derived_uid(request_id: str, part: str) -> str:
    """Return a UID that depends on the request alone, as those of a worker's DICOM results do."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{request_id}/{part}').int}"


_SERIES_UID, _SOP_UID = f"2.25.{'1' * 39}", f"2.25.{'2' * 39}"


@cache
def _result_form() -> bytes:
    return tiny_result(STUDY_UID, series_uid=_SERIES_UID, sop_uid=_SOP_UID)


def dicom_result(request_id: str, note: str) -> bytes:
    """Return a DICOM result of a request; `note` makes the content another one under the same UIDs."""
    content = note.encode().ljust(128, b"\0")[:128] + _result_form()[128:]
    for form, part in ((_SERIES_UID, "series"), (_SOP_UID, "instance")):
        content = content.replace(form.encode(), _derived_uid(request_id, part).encode().ljust(44, b"\0"))
    return content


@dataclass
class Held:
    """What a worker remembers of a claim; `picture` is what it has drawn last."""

    worker_id: str
    token: str
    request_id: str
    fence: int
    fingerprint: str
    picture: int = 0
    sent: dict[str, Any] | None = None

    @property
    def proof(self) -> dict[str, Any]:
        return {"worker_id": self.worker_id, "token": self.token, "fence": self.fence}

    def files(self) -> dict[str, bytes]:
        note = f"{self.token}-{self.picture}"
        return {"heatmap.png": PNG + note.encode(), "sr.dcm": dicom_result(self.request_id, note)}

    def completion(self, *, files: bool) -> dict[str, Any]:
        """Return what it delivers a result with, with all files or none."""
        return {
            **self.proof,
            "fingerprint": self.fingerprint,
            "artifacts": [named(*item) for item in self.files().items()] if files else [],
            "result": {**RESULT, "by": self.token},
        }
