# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a person decides: about a request cancel, retry, withdraw, review; about a worker drain."""

from __future__ import annotations

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.queue.lifecycle import cancelled, retried, reviewed, withdrawn
from orthanc_plugin.queue.values import AnalysisRequest, Event, Review

from .announce import announced, at_risk
from .core import Core, audit_call, find, unavailable
from .publish import alone, delete_result
from .submit import check_permitted, check_still_wanted
from .transact import change_request


def cancel(core: Core, request_id: str, user: str) -> AnalysisRequest:
    """Cancel at once what nobody works on; ask the worker otherwise.

    Raises
    ------
    ApiError
        409 where the request has ended or is being published.
    """
    return change_request(core, request_id, lambda item: cancelled(item, user, core.clock.now()))


def retry(core: Core, request_id: str, user: str) -> AnalysisRequest:
    """Queue a failed or cancelled request again, with a fresh set of attempts.

    Raises
    ------
    ApiError
        409 where the request is neither, or another one stands for the same analysis; 422 where the site
        does not permit its model (any more).
    """

    def change(request: AnalysisRequest) -> AnalysisRequest:
        return retried(request, user, core.clock.now())

    try:
        ended = find(core, request_id)
        wanted = [change(ended)]
        if not ended.is_open:
            check_permitted(core.settings, ended.model, ended.model_version)
            check_still_wanted(core, ended)
        with announced(core, wanted, at_risk(core, wanted)):
            return change_request(core, request_id, change)
    except StorageError as error:
        raise unavailable(error) from error


def withdraw(core: Core, request_id: str, user: str, reason: str) -> AnalysisRequest:
    """Take a result back: its artifacts and DICOM series go, the record of it stays.

    Raises
    ------
    ApiError
        409 where there is no result; 503 where Orthanc fails (what is left is deleted later), and where
        another call is at its results.
    """

    def change(item: AnalysisRequest) -> AnalysisRequest:
        return withdrawn(item, user, reason, core.clock.now())

    with alone(core, request_id):
        try:
            # What is to be deleted stays known where the slide goes meanwhile, and the request with it.
            core.unpublished.add(change(find(core, request_id)))
        except StorageError as error:
            raise unavailable(error) from error
        change_request(core, request_id, change)
        try:
            delete_result(core, request_id)
        except (StorageError, ApiError) as error:
            core.warn(f"The files of withdrawn request {request_id} are not all deleted yet: {error}")
    return find(core, request_id)


def review(core: Core, request_id: str, user: str, verdict: str, comment: str) -> AnalysisRequest:
    """Note what a person thinks of a result.

    Raises
    ------
    ApiError
        409 where there is no result.
    """
    return change_request(
        core, request_id, lambda item: reviewed(item, Review(verdict, comment, user, core.clock.now()))
    )


def drain(core: Core, worker_id: str, user: str, *, drain: bool) -> None:
    """Let a worker finish what it has and take nothing more, until that is ended; a restart does not end it.

    Raises
    ------
    ApiError
        404 where no such worker was heard of, 409 where too many are drained, 503 where Orthanc fails.
    """
    try:
        core.workers.set_drain(worker_id, drain=drain)
    except StorageError as error:
        raise unavailable(error) from error
    if drain:
        core.claims.end(worker_id)
    audit_call(core, Event(core.clock.now(), "drained" if drain else "drain_ended", user, worker_id))
