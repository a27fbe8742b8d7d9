# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of a result: taken from a worker under its lease, handed out to all once it has delivered."""

from __future__ import annotations

from dataclasses import replace

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.queue import values
from orthanc_plugin.queue.delivery import held, with_artifact
from orthanc_plugin.queue.leases import authorised, require_deliverable
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, Artifact, Output, sha256_hex
from orthanc_plugin.results.artifacts import DICOM_TYPE, MOST_ARTIFACTS, check_content, kind_of
from orthanc_plugin.slides.dicom_identity import UnreadableDicomError, read_identity
from orthanc_plugin.storage.numbering import take_number
from orthanc_plugin.storage.store import with_request

from .core import Core, find, unavailable, unknown_request
from .publish import alone, delete_unpublished
from .report import LeaseProof


def put_artifact(
    core: Core, request_id: str, name: str, content_type: str, content: bytes, proof: LeaseProof
) -> Artifact:
    """Keep a file of a result. Its attachment number is reserved, durably, before its bytes are written.

    Raises
    ------
    ApiError
        400, 413, 415 for a file that no result may have, 409 where the lease was lost or a DICOM file belongs
        elsewhere, 503 where Orthanc fails.
    """
    kind = kind_of(name)
    check_content(kind, content_type, content)
    request = find(core, request_id)
    grant = authorised(request, proof.fence, proof.token_sha256)
    sent = Artifact(name, 0, len(content), sha256_hex(content), kind.content_type)
    present = held(request, sent)
    if present is not None and grant.outcome == values.DELIVERED:  # a replay whose first answer was lost
        return present
    require_deliverable(request)
    try:
        if present is not None and stored_intact(core, request.series, present):
            return present
        output = None
        if kind.content_type == DICOM_TYPE:
            _clear_earlier(core, request_id)
            output = _output_of(core, request, content)
        reserved, replaced = _reserve(core, request, sent, output, proof)
        core.gateway.put_attachment(request.series, reserved.number, content)
        if replaced is not None:
            core.gateway.delete_attachment(request.series, replaced.number)
    except StorageError as error:
        raise unavailable(error) from error
    return reserved


def _reserve(
    core: Core, request: AnalysisRequest, artifact: Artifact, output: Output | None, proof: LeaseProof
) -> tuple[Artifact, Artifact | None]:
    """Return the artifact with its number, and the one whose place it has taken.

    The same file keeps its number: a late duplicate must not replace what a result names by then.
    """
    taken: list[tuple[Artifact, Artifact | None]] = []

    def on_state(state: SeriesState) -> SeriesState:
        current = state.find(request.request_id)
        if current is None:
            raise unknown_request()
        authorised(current, proof.fence, proof.token_sha256)
        require_deliverable(current)
        present = held(current, artifact)
        if present is not None:
            taken.append((present, None))
            return state
        if sum(item.name != artifact.name for item in current.artifacts) >= MOST_ARTIFACTS:
            raise ApiError(413, "artifact_too_large", f"A result has at most {MOST_ARTIFACTS} artifacts.")
        number, numbered = take_number(state)
        reserved = replace(artifact, number=number)
        old = next((item for item in current.artifacts if item.name == artifact.name), None)
        taken.append((reserved, old))
        return with_request(numbered, with_artifact(current, reserved, output))

    core.store.transact(request.series, on_state)
    return taken[-1]


def _clear_earlier(core: Core, request_id: str) -> None:
    """Delete what an earlier delivery of the same request left: its DICOM results may have the same UIDs."""
    if core.unpublished.of(request_id) is not None:
        with alone(core, request_id):
            delete_unpublished(core, request_id)


def _output_of(core: Core, request: AnalysisRequest, content: bytes) -> Output:
    """Return what a DICOM result will be; it may neither leave its study nor join a series that is there."""
    try:
        identity = read_identity(content)
    except UnreadableDicomError as error:
        raise ApiError(415, "wrong_content_type", str(error)) from error
    if identity.study_instance_uid != request.study_instance_uid:
        raise ApiError(409, "artifact_mismatch", "A DICOM result must belong to the study of its slide.")
    if identity.series_instance_uid == request.series_instance_uid:
        raise ApiError(409, "artifact_mismatch", "A DICOM result must be a series of its own.")
    producer = core.index.producer(identity.series_instance_uid)
    is_anothers = producer is not None and producer.request_id != request.request_id
    if is_anothers or core.gateway.lookup_series(identity.series_instance_uid, None):
        raise ApiError(
            409, "artifact_mismatch", "Orthanc has a series with this UID already; derive a new one."
        )
    return Output(identity.modality, identity.series_instance_uid, identity.sop_instance_uid)


def stored_intact(core: Core, series_id: str, artifact: Artifact) -> bool:
    """Tell whether the bytes of an artifact lie in Orthanc as they were announced.

    Raises
    ------
    StorageError
        Where Orthanc cannot read.
    """
    content = core.gateway.get_attachment(series_id, artifact.number)
    return content is not None and len(content) == artifact.size and sha256_hex(content) == artifact.sha256


def get_artifact(core: Core, request_id: str, name: str) -> tuple[Artifact, bytes]:
    """Return a file of a result that has been delivered.

    Raises
    ------
    ApiError
        404 where there is none (yet, or any more), 503 where Orthanc fails.
    """
    request = find(core, request_id)
    delivered = request.status in {values.PUBLISHING, values.COMPLETED}
    artifact = next((item for item in request.artifacts if item.name == name), None)
    try:
        content = (
            core.gateway.get_attachment(request.series, artifact.number)
            if artifact is not None and delivered
            else None
        )
    except StorageError as error:
        raise unavailable(error) from error
    if artifact is None or content is None:
        raise ApiError(404, "unknown_artifact", "This request has no such artifact (yet, or any more).")
    return artifact, content
