# SPDX-License-Identifier: AGPL-3.0-or-later
"""From `publishing` to `completed`: the plugin stores the DICOM results. May be repeated at any time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from orthanc_plugin.errors import ApiError, BusyError, FileRefusedError, StorageError
from orthanc_plugin.gateway import Filed
from orthanc_plugin.queue import values
from orthanc_plugin.queue.delivery import completed
from orthanc_plugin.queue.lifecycle import is_to_be_deleted, result_deleted
from orthanc_plugin.queue.values import AnalysisRequest, Output
from orthanc_plugin.results.artifacts import DICOM_TYPE
from orthanc_plugin.slides.dicom_identity import UnreadableDicomError, check_structure
from orthanc_plugin.storage.store import source_deleted

from .announce import prune_copies
from .changes import gone_a_moment_ago, series_deleted
from .core import Core, find, is_known_gone
from .transact import change_request

_STORED_WITHIN_S = 24 * 3600.0
"""A disk that is full on a Friday is seen to by then; what Orthanc still does not take it never will."""


def publish(core: Core, request_id: str) -> None:
    """Store the DICOM results of a delivered request and complete it; nothing where there is nothing to do.

    The files have UIDs of their own, so storing them twice stores them once. Hold `alone` meanwhile.

    Raises
    ------
    StorageError
        Where Orthanc fails; the request stays `publishing` and is tried again.
    ApiError
        410 where the series was deleted; nothing of the result is left then.
    """
    request = find(core, request_id)
    if request.status != values.PUBLISHING:
        return
    core.unpublished.add(request)
    try:
        outputs, refused = _store_outputs(core, request)
        now = core.clock.now()
        change_request(core, request_id, lambda item: completed(item, outputs, now, refused=refused))
    except ApiError as error:
        if error.status == 410:
            series_deleted(core, request.series)
        raise
    finally:
        _settle(core, request_id)


def _settle(core: Core, request_id: str) -> None:
    try:
        delete_unpublished(core, request_id)
    except StorageError as error:
        core.warn(f"The DICOM results of request {request_id} are looked at again later: {error}")


def delete_unpublished(core: Core, request_id: str) -> None:
    """Delete the DICOM series that were stored for a request which is not completed; it may be gone by now.

    One that was completed when it went with its slide keeps them: where that comes back it is completed. Hold
    `alone` meanwhile.

    Raises
    ------
    StorageError
        Where Orthanc fails; tried again later.
    """
    stored = core.unpublished.of(request_id)
    request = core.index.get(request_id)
    if stored is None or (request is None and not is_known_gone(core, request_id)):
        return
    if request is not None and request.status == values.PUBLISHING:
        return
    kept: set[str] = set()
    latest = request or gone_a_moment_ago(core, request_id)
    if latest is not None and latest.status == values.COMPLETED:
        # First: by a copy the request could be analysed anew, and these results would be in the way.
        prune_copies(core, [latest.series])
        kept = {output.series_instance_uid for output in latest.outputs}
    for uid in stored.series_instance_uids:
        if uid not in kept:
            for series_id in core.gateway.lookup_series(uid, stored.study_instance_uid):
                core.gateway.delete_series(series_id)
    core.unpublished.remove(request_id)
    core.failing_since.pop(request_id, None)


@contextmanager
def alone(core: Core, request_id: str) -> Iterator[None]:
    """Let one call at a time store or delete the results of a request; another one does not wait.

    Raises
    ------
    BusyError
        Where another one is at it.
    """
    with core.index.lock:
        if request_id in core.busy:
            raise BusyError
        core.busy.add(request_id)
    try:
        yield
    finally:
        with core.index.lock:
            core.busy.discard(request_id)


def _store_outputs(core: Core, request: AnalysisRequest) -> tuple[tuple[Output, ...], tuple[str, ...]]:
    """Return the DICOM results that are stored now, and why others are not and never will be."""
    outputs: dict[str, Output] = {}
    refused: list[str] = []
    for artifact in request.artifacts:
        if artifact.content_type != DICOM_TYPE:
            continue
        try:
            output = _store(core, request, artifact.number)
        except StorageError as error:
            if not (isinstance(error, FileRefusedError) or _is_given_up(core, request)):
                raise
            core.warn(f"{artifact.name} of request {request.request_id} is not stored: {error}")
            refused.append(f"{artifact.name}: {error}")
        else:
            outputs[output.sop_instance_uid] = output
    return tuple(outputs.values()), tuple(refused)


def _store(core: Core, request: AnalysisRequest, number: int) -> Output:
    content = _bytes_of(core, request, number)
    try:
        check_structure(content)
    except UnreadableDicomError as error:
        raise FileRefusedError(str(error)) from error
    output = _announced(request, core.gateway.filed_as(content))
    series_id = core.gateway.parent_series(core.gateway.store_instance(content))
    if series_id is None:
        raise StorageError("A DICOM result that was stored cannot be found.")
    return replace(output, series=series_id)


def _announced(request: AnalysisRequest, filed: Filed) -> Output:
    """Return which DICOM result a file is that Orthanc would put there.

    What was read of it when it came does not bind Orthanc: in another series it could bring down a slide when
    the result is withdrawn, and under another patient it would be theirs.
    """
    for output in request.outputs:
        if (
            filed.study_id == request.study
            and filed.series_instance_uid == output.series_instance_uid
            and filed.sop_instance_uid == output.sop_instance_uid
        ):
            return output
    raise FileRefusedError("It is of another patient, study or series than the slide's result should be.")


def _is_given_up(core: Core, request: AnalysisRequest) -> bool:
    """Tell whether Orthanc has failed to store a result for so long that it is completed without.

    That is counted while the plugin tries, not while Orthanc is off or its clock is set.
    """
    now = core.clock.monotonic()
    return now - core.failing_since.setdefault(request.request_id, now) > _STORED_WITHIN_S


def _bytes_of(core: Core, request: AnalysisRequest, number: int) -> bytes:
    content = core.gateway.get_attachment(request.series, number)
    if content is None:
        if core.gateway.series(request.series) is None:
            raise source_deleted()
        series_deleted(core, request.series)
        raise StorageError("A DICOM result that was delivered went with its slide, which was stored again.")
    return content


def delete_result(core: Core, request_id: str) -> None:
    """Delete the DICOM series and the artifacts of a withdrawn request. Hold `alone` meanwhile.

    Raises
    ------
    StorageError
        Where Orthanc fails; tried again later.
    ApiError
        410 or 503, likewise.
    """
    request = find(core, request_id)
    if not is_to_be_deleted(request):
        return
    for output in request.outputs:
        if output.series:
            core.gateway.delete_series(output.series)
    for artifact in request.artifacts:
        core.gateway.delete_attachment(request.series, artifact.number)
    change_request(core, request_id, result_deleted)
