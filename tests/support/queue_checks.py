# SPDX-License-Identifier: AGPL-3.0-or-later
"""The comparison of what was promised with what memory says and with what Orthanc holds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

from orthanc_plugin.queue.lifecycle import is_to_be_deleted
from orthanc_plugin.queue.tallies import EVENTS
from orthanc_plugin.queue.values import OPEN, SOURCE_REPLACED, AnalysisRequest, Artifact
from orthanc_plugin.storage.codec import DamagedError, NewerError, decode_archive, decode_state
from orthanc_plugin.storage.numbering import named_numbers
from tests.support.queue_orthanc import StruckSite
from tests.support.queue_promises import Damage, Promises, held_value, require


def check(site: StruckSite, promises: Promises) -> None:
    """Compare what memory says with what was promised."""
    core = site.application.core
    if core.ready.unread:
        return  # it says so, and answers 503
    requests = {request.request_id: request for request in core.index.snapshot()}
    expected = promises.expected()
    require(expected <= requests.keys(), "lost", "an accepted request is gone")
    for request_id in expected & promises.results.keys():
        request = requests[request_id]
        is_kept = request.status in {"publishing", "completed", "withdrawn"}
        require(is_kept, "lost", f"a request with a result is {request.status}")
        was_asked = request.status != "withdrawn" or request_id in promises.asked_back
        require(was_asked, "lost", "a result was withdrawn that nobody withdrew")
        is_same = request.fence == promises.results[request_id][0]
        require(is_same, "superseded", "a result stands under another fence")
    for request in requests.values():
        require(0 <= request.attempts <= request.fence, "other", "attempts and fence do not fit")
        is_leased = request.status != "processing" or core.index.lease(request.request_id) is not None
        require(is_leased, "other", "a request is in work without a lease")
        (promises.open.add if request.is_open else promises.open.discard)(request.request_id)
        promises.published.pop(request.request_id, None)
        if request.status == "completed":
            promises.published[request.request_id] = {output.series for output in request.outputs}
    # A slide that comes back brings its lease along, whatever its worker has fetched ahead meanwhile.
    prefetched = [item for item in core.index.prefetched() if SOURCE_REPLACED not in item.flags]
    ahead = [request.grants[-1].worker_id for request in prefetched]
    require(len(ahead) == len(set(ahead)), "other", "a worker holds two slides ahead")


def check_dicom(site: StruckSite, promises: Promises, slides: set[str]) -> None:
    """Compare the study with the completed requests, once all is quiet."""
    requests = site.application.core.index.snapshot()
    unfinished = [item for item in requests if item.status == "publishing"]
    require(not unfinished, "other", "a request is still being published")
    completed = [item for item in requests if item.status == "completed"]
    published = {output.series for item in completed for output in item.outputs}
    left_by_deleted = {series for held in promises.published.values() for series in held}
    extra = site.series_ids() - slides - published - left_by_deleted
    require(not extra, "orphans", "there are DICOM series of no completed request")
    sound = [item for item in completed if item.request_id not in promises.torn]
    whole = {output.series for item in sound for output in item.outputs}
    require(whole <= site.series_ids(), "lost", "a DICOM series of a completed request is gone")


def requests_told_otherwise(site: StruckSite, *, unread: bool = False) -> set[str]:
    """Return the requests of whose history the audit does not have every line once.

    With `unread` also those that a start could not read yet, looked up where they lie.
    """
    told = Counter((request_id, item.at, item.event, item.by) for item, request_id in site.audit.events)
    happened = Counter(
        (request.request_id, item.at, item.event, item.by)
        for request in (*site.application.core.index.snapshot(), *(_unread(site) if unread else ()))
        for item in request.history
        if item.event != "confirmed"  # that is not written by itself, and no line
    )
    replaced = {line[0] for line in happened if line[2] == SOURCE_REPLACED}  # a copy knows of no leases
    return {line[0] for line, number in happened.items() if told[line] != number} - replaced


def _unread(site: StruckSite) -> Iterator[AnalysisRequest]:
    for series in site.application.core.ready.unread:
        with suppress(DamagedError, NewerError):
            yield from decode_state(
                series, held_value(site, series, site.settings.metadata_number, is_attachment=False)
            ).requests
            archive = held_value(site, series, site.settings.archive_number, is_attachment=True)
            yield from decode_archive(series, archive)[0] if archive else ()


def check_audit(site: StruckSite, promises: Promises) -> None:
    """Compare the audit with the histories, once no write is in doubt any more."""
    differing = requests_told_otherwise(site) - promises.cut_short
    require(not differing, "other", "a transition has no audit line, or two")
    happened = {item.event for request in site.application.core.index.snapshot() for item in request.history}
    require(happened <= set(EVENTS), "other", "a transition is of a kind that metrics do not begin with")


def check_files(site: StruckSite, promises: Promises, slides: set[str]) -> None:
    """Compare what lies at the slides with what their requests name, once all is quiet after a start."""
    requests = site.application.core.index.snapshot()
    for series in slides - promises.torn:
        of_slide = (item for item in requests if item.series == series)
        named = named_numbers(tuple(item for item in of_slide if item.status not in {"failed", "cancelled"}))
        files = set(site.gateway.list_attachments(series)) - {site.settings.archive_number}
        require(files <= named, "orphans", "there are left-over attachments")
        values = set(site.gateway.list_metadata(series)) - {site.settings.metadata_number}
        require(values <= named, "orphans", "there are left-over results")
    for damage in promises.set_aside:
        _check_set_aside(site, damage)
    for item in requests:
        is_cancelled = not item.cancel_requested or item.status in {*OPEN, "cancelled", "failed"}
        require(is_cancelled, "other", "a cancelled request was finished")
        is_left = item.status == "withdrawn" and is_to_be_deleted(item)
        require(not is_left, "orphans", "the files of a withdrawn result are still there")
        if item.status == "completed" and item.request_id not in promises.torn:
            _check_result(site, promises, item)


def _check_set_aside(site: StruckSite, damage: Damage) -> None:
    # An archive is not read, and stays as it is, where the state has no request in it (any more).
    is_kept = damage.lies_in(site, set_aside=True) or damage.lies_in(site, set_aside=False)
    require(is_kept, "lost", "a damaged value was not kept")
    held = site.gateway.numbers_at(damage.series)
    for request_id, files in damage.files.items():
        is_unknown = site.application.core.index.get(request_id) is None
        require(not is_unknown or files <= held, "lost", "files that a damaged value names were deleted")


def _check_result(site: StruckSite, promises: Promises, item: AnalysisRequest) -> None:
    if SOURCE_REPLACED in item.flags:
        require(item.series in promises.replaced, "lost", "a slide that stayed is said to be replaced")
    else:
        require(item.record is not None, "lost", "a completed request has no result")
    for artifact in item.artifacts:
        _require_whole(artifact, site.gateway.get_attachment(item.series, artifact.number))
    if item.record is not None:
        _require_whole(item.record, site.gateway.get_metadata(item.series, item.record.number))
    delivered = {artifact.sha256 for artifact in item.artifacts}
    for output in item.outputs if delivered else ():
        (instance,) = site.gateway.instances(output.series)
        stored = hashlib.sha256(site.gateway.dicom_file(instance.instance_id)).hexdigest()
        require(stored in delivered, "superseded", "a DICOM series is of another attempt")


def _require_whole(artifact: Artifact, content: bytes | None) -> None:
    is_whole = content is not None and hashlib.sha256(content).hexdigest() == artifact.sha256
    require(is_whole, "lost", f"{artifact.name} of a completed request is gone or another")
