# SPDX-License-Identifier: Apache-2.0
"""Under which UIDs results are stored, and what their headers say about the run that made them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from worker.result_kinds import ResultKind

_NAMESPACE = uuid.UUID("0f6a6f0e-5d0e-5b0c-8f0f-3d3f7d2a7c11")


@dataclass(frozen=True)
class Run:
    """The request that results belong to.

    Attributes
    ----------
    request_id
        Id of the request; with the kind it decides every UID.
    created
        When the result came about; its date and time go into the headers as they are.
    predecessor
        Id of the earlier completed request that a forced re-run repeats, or None.
    """

    request_id: str
    created: datetime
    predecessor: str | None = None


def derived_uid(request_id: str, *parts: str) -> str:
    """Return the UID of something that belongs to a request: always the same for the same names.

    A UUID of version 5 (RFC 9562, 5.5) as a UID under 2.25 (DICOM PS3.5, B.2).
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join((request_id, *parts))).int}"


def series_uid(request_id: str, kind: ResultKind) -> str:
    """Return the SeriesInstanceUID of one kind of result of a request."""
    return derived_uid(request_id, kind.value, "series")


def instance_uid(request_id: str, kind: ResultKind) -> str:
    """Return the SOPInstanceUID of one kind of result of a request."""
    return derived_uid(request_id, kind.value, "instance")
