# SPDX-License-Identifier: AGPL-3.0-or-later
"""From `publishing` to `completed`: the plugin stores the DICOM results. May be repeated at any time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from orthanc_plugin import values
from orthanc_plugin.artifacts import DICOM_TYPE
from orthanc_plugin.delivery import completed
from orthanc_plugin.dicom_identity import read_identity
from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.lifecycle import outputs_deleted
from orthanc_plugin.store import source_deleted
from orthanc_plugin.values import AnalysisRequest, Output

from .changes import series_deleted
from .core import Core, change_request, find


def publish(core: Core, request_id: str) -> None:
    """Store the DICOM results of a delivered request and complete it; nothing where there is nothing to do.

    The files have UIDs of their own, so storing them twice stores them once.

    Raises
    ------
    StorageError
        Where Orthanc fails; the request stays `publishing` and is tried again.
    ApiError
        410 where the series was deleted; nothing of the result is left then.
    """
    request = find(core, request_id)
    if request.status == values.PUBLISHING:
        outputs = _store_outputs(core, request)
        after = change_request(core, request_id, lambda item: completed(item, outputs, core.clock.now()))
        if after.is_open:  # stored again in the meantime, and to be analysed anew
            _delete_stored(core, outputs)


@contextmanager
def alone(core: Core, request_id: str) -> Iterator[None]:
    """Let one completion of a request go on at a time; another one is to come again, it does not wait.

    Raises
    ------
    ApiError
        503 ``too_busy``.
    """
    with core.index.lock:
        if request_id in core.publishing:
            raise ApiError(
                503,
                "too_busy",
                "This request is being completed right now. Send the same again.",
                headers={"Retry-After": "1"},
            )
        core.publishing.add(request_id)
    try:
        yield
    finally:
        with core.index.lock:
            core.publishing.discard(request_id)


def _store_outputs(core: Core, request: AnalysisRequest) -> tuple[Output, ...]:
    outputs: dict[str, Output] = {output.sop_instance_uid: output for output in request.outputs}
    kept: dict[str, Output] = {}
    for artifact in request.artifacts:
        if artifact.content_type == DICOM_TYPE:
            content = _bytes_of(core, request, artifact.number)
            uid = read_identity(content).sop_instance_uid
            kept[uid] = replace(outputs[uid], series=_store(core, content))
    if kept and core.gateway.series(request.series) is None:
        _delete_stored(core, tuple(kept.values()))
        series_deleted(core, request.series)
        raise source_deleted()
    return tuple(kept.values())


def _delete_stored(core: Core, outputs: tuple[Output, ...]) -> None:
    for output in outputs:
        if output.series:
            core.gateway.delete_series(output.series)


def _bytes_of(core: Core, request: AnalysisRequest, number: int) -> bytes:
    content = core.gateway.get_attachment(request.series, number)
    if content is None:
        series_deleted(core, request.series)
        if core.gateway.series(request.series) is None:
            raise source_deleted()
        raise StorageError("A DICOM result that was delivered went with its slide, which was stored again.")
    return content


def _store(core: Core, content: bytes) -> str:
    series_id = core.gateway.parent_series(core.gateway.store_instance(content))
    if series_id is None:
        raise StorageError("A DICOM result that was stored cannot be found.")
    return series_id


def delete_outputs(core: Core, request_id: str) -> None:
    """Delete the DICOM series and the attachments of a withdrawn request.

    Raises
    ------
    StorageError
        Where Orthanc fails; tried again later.
    ApiError
        410 or 503, likewise.
    """
    request = find(core, request_id)
    if request.status != values.WITHDRAWN:
        return
    _delete_stored(core, request.outputs)
    core.store.delete_orphans(request.series)
    if request.outputs:
        change_request(core, request_id, outputs_deleted)
