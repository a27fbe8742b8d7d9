# SPDX-License-Identifier: AGPL-3.0-or-later
"""The full result of a request: written under the number that its lease reserved, read when it is asked for.

It is a metadata value of the series. An attachment is a file in two new folders, which Orthanc has on the
disk before it goes on: that takes longer than all the rest of a completion. Only a result that is large for a
value that Orthanc reads with every look at the series becomes one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.queue import values
from orthanc_plugin.queue.values import AnalysisRequest, Artifact, replaced, sha256_hex
from orthanc_plugin.storage.codec import encode_record

from .core import Core, unavailable

MOST_IN_METADATA = 32 * 1024
"""Bytes; a result that names 100 patches has about 10,000."""
_MOST = 1024 * 1024


def reserved(number: int) -> Artifact:
    """Return the record that a lease begins with: its number, still without bytes."""
    return Artifact("record", number, 0, "", "application/json")


def write_record(core: Core, request: AnalysisRequest, result: Mapping[str, Any]) -> Artifact:
    """Write a full result, and return the record that names it.

    Raises
    ------
    ApiError
        413 where it is too large; 409 ``series_changed`` where the slide was replaced meanwhile.
    StorageError
        Where Orthanc fails.
    """
    content = encode_record(result)
    if len(content) > _MOST:
        raise ApiError(413, "body_too_large", f"A result may have at most {_MOST} bytes.")
    if request.record is None:
        raise ApiError(
            409, "series_changed", "The slide was replaced while it was analysed. Drop the work; claim again."
        )
    if len(content) <= MOST_IN_METADATA:
        core.gateway.put_metadata(request.series, request.record.number, content)
    else:
        core.gateway.put_attachment(request.series, request.record.number, content)
    return replaced(request.record, size=len(content), sha256=sha256_hex(content))


def read_result(core: Core, request: AnalysisRequest) -> Any:
    """Return the full result of a request, or None where it has none (any more) or it is damaged.

    Raises
    ------
    ApiError
        503 where Orthanc fails.
    """
    if request.record is None or request.summary is None or request.status == values.WITHDRAWN:
        return None
    try:
        content = _stored(core, request.series, request.record)
    except StorageError as error:
        raise unavailable(error) from error
    if content is None or sha256_hex(content) != request.record.sha256:
        core.warn(f"The full result of request {request.request_id} is missing or damaged.")
        return None
    return json.loads(content)["result"]


def _stored(core: Core, series_id: str, record: Artifact) -> bytes | None:
    content = None
    if record.size <= MOST_IN_METADATA:
        content = core.gateway.get_metadata(series_id, record.number)
    if content is None:  # a large one, or one of an earlier version, which kept every record there
        content = core.gateway.get_attachment(series_id, record.number)
    return content
