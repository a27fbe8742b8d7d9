# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finished requests that have left the state of their series: they change, count and stay like all others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from orthanc_plugin.errors import StorageError
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, Artifact, Output
from orthanc_plugin.service.changes import series_created, series_deleted
from orthanc_plugin.storage.archive import MAX_BYTES, MAX_FINISHED, brought_back, fold
from orthanc_plugin.storage.codec import encode_state
from tests.support.queue_client import PNG, RESULT, Queue, named
from tests.support.sites import MemorySite, Slide
from tests.support.tiny_dicom import tiny_result
from tests.unit.orthanc_plugin.test_lifecycle import a_request

ARCHIVE, DAMAGED = 5001, 5002


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


def finished(number: int, *, summary: str = "", status: str = "completed") -> AnalysisRequest:
    return replace(a_request(request_id=f"r{number}", created=float(number)), status=status, summary=summary)


def test_the_oldest_finished_requests_leave_the_state_first() -> None:
    requests = tuple(finished(number) for number in range(MAX_FINISHED + 2))
    state, _, folded = fold(SeriesState("s", 5100, 1, requests))
    assert [request.request_id for request in folded] == ["r0", "r1"]
    assert (len(state.requests), state.folded) == (MAX_FINISHED, 2)


def test_a_state_that_is_too_large_folds_finished_requests() -> None:
    requests = tuple(finished(number, summary="x" * 5000) for number in range(20))
    state, content, folded = fold(SeriesState("s", 5100, 1, requests))
    assert folded
    assert content == encode_state(state)
    assert len(content) <= MAX_BYTES


@pytest.mark.parametrize(
    "left",
    [
        {"outputs": (Output("SR", "1.2", "1.2.1", "series"),)},
        {"artifacts": (Artifact("heatmap.png", 5101, 1, "", "image/png"),)},
    ],
)
def test_a_withdrawn_request_stays_until_its_files_are_deleted(left: dict[str, tuple[object, ...]]) -> None:
    withdrawn = replace(finished(0, summary="x" * MAX_BYTES, status="withdrawn"), **left)  # type: ignore[arg-type]
    assert fold(SeriesState("s", 5100, 1, (withdrawn,)))[2] == ()
    assert fold(SeriesState("s", 5100, 1, (replace(withdrawn, outputs=(), artifacts=()),)))[2] != ()


def test_what_comes_back_takes_its_place_by_age() -> None:
    state = SeriesState("s", 5100, 1, (finished(1), finished(3)), folded=2)
    back = brought_back(state, finished(2))
    assert [request.request_id for request in back.requests] == ["r1", "r2", "r3"]
    assert back.folded == 1


def fill(queue: Queue, slide: Slide, count: int = MAX_FINISHED) -> None:
    """Cancel so many requests on a slide that what was finished before is folded."""
    queue.site.pass_time(1)
    for number in range(count):
        queue.decide(queue.submitted(slide, parameters={"n": number}), "cancel")


def state_of(site: MemorySite, slide: Slide) -> bytes:
    return site.gateway.get_metadata(slide.series, 5000) or b""


def archived_result(site: MemorySite, queue: Queue, slide: Slide) -> str:
    """Return a result with a heatmap and a DICOM report that lies in the archive."""
    request_id = queue.submitted(slide)
    lease, report = queue.claim(), tiny_result(slide.study_uid)
    lease.put("heatmap.png", PNG)
    lease.put("report.dcm", report, "application/dicom")
    assert lease.complete(named("heatmap.png", PNG), named("report.dcm", report)).status == 200
    fill(queue, slide)
    assert request_id not in state_of(site, slide).decode()
    return request_id


def heatmap_status(site: MemorySite, request_id: str) -> int:
    return site.call("GET", f"/pathology/requests/{request_id}/artifacts/heatmap.png").status


def test_archived_requests_are_still_found_after_a_restart(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    ids = []
    for number in range(MAX_FINISHED + 3):
        request_id = queue.submitted(slide, parameters={"n": number})
        queue.decide(request_id, "cancel")
        ids.append(request_id)
    site.restart()
    assert json.loads(state_of(site, slide))["folded"] == 3
    assert [queue.status(request_id) for request_id in ids] == ["cancelled"] * len(ids)


def test_a_result_in_the_archive_still_answers_the_same_wish(site: MemorySite, queue: Queue) -> None:
    done = archived_result(site, queue, slide := site.new_slide())
    again = queue.submit(slide)
    assert (again.status, again.json["request_id"]) == (200, done)


def test_the_files_of_an_archived_result_stay_over_a_restart(site: MemorySite, queue: Queue) -> None:
    done = archived_result(site, queue, site.new_slide())
    site.restart(kill=True)
    assert heatmap_status(site, done) == 200
    assert queue.get(done)["result"] == RESULT


def test_an_archived_result_can_be_withdrawn(site: MemorySite, queue: Queue) -> None:
    done = archived_result(site, queue, slide := site.new_slide())
    answer = queue.decide(done, "withdraw", reason="wrong patient")
    assert (answer.status, answer.json["request"]["status"]) == (200, "withdrawn")
    for _ in range(2):
        assert site.series_ids() == {slide.series}
        assert site.gateway.list_attachments(slide.series) == (ARCHIVE,)
        assert heatmap_status(site, done) == 404
        site.restart(kill=True)
    assert queue.status(done) == "withdrawn"


def test_an_archived_result_can_be_reviewed(site: MemorySite, queue: Queue) -> None:
    done = archived_result(site, queue, site.new_slide())
    assert queue.decide(done, "review", verdict="unusable").status == 200
    for _ in range(2):
        assert queue.get(done)["review"]["verdict"] == "unusable"
        site.restart(kill=True)


def test_an_archived_failure_can_be_retried_and_its_result_is_kept(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    queue.claim().fail(retryable=False)
    fill(queue, slide, MAX_FINISHED + 1)
    assert queue.decide(request_id, "retry").json["request"]["status"] == "pending"
    site.restart(kill=True)
    assert queue.claim().complete().status == 200
    fill(queue, slide, 2)
    site.restart(kill=True)
    assert queue.status(request_id) == "completed"
    assert sum(item.request_id == request_id for item in site.application.core.index.snapshot()) == 1


@pytest.mark.parametrize("status", [200, 409])
def test_what_does_not_change_an_archived_request_writes_nothing(
    site: MemorySite, queue: Queue, status: int
) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    queue.decide(request_id, "cancel")
    fill(queue, slide)
    before = list(site.gateway.writes)
    answer = queue.decide(request_id, *(["cancel"] if status == 200 else ["review"]), verdict="agree")
    assert answer.status == status
    assert site.gateway.writes == before


def test_an_archived_request_changes_without_a_look_at_the_archive(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = archived_result(site, queue, site.new_slide())
    monkeypatch.setattr(site.gateway, "get_attachment", lambda *_: pytest.fail("the archive was read"))
    assert queue.decide(done, "review", verdict="agree").status == 200
    assert queue.get(done)["review"]["verdict"] == "agree"


def test_a_review_of_an_archived_result_that_was_not_written_did_not_happen(
    site: MemorySite, queue: Queue
) -> None:
    done = archived_result(site, queue, site.new_slide())
    site.gateway.fail_next("put_attachment")
    assert queue.decide(done, "review", verdict="agree").status == 503
    site.restart(kill=True)
    assert queue.get(done)["review"] is None


def test_a_review_that_the_archive_got_before_a_write_failed_is_told_once(
    site: MemorySite, queue: Queue
) -> None:
    done = archived_result(site, queue, site.new_slide())
    site.gateway.fail_next("put_metadata")
    assert queue.decide(done, "review", verdict="agree").status == 503
    for _ in range(2):
        site.pass_time(10)
        assert queue.get(done)["review"]["verdict"] == "agree"
        assert [about for event, about in site.audit.events if event.event == "reviewed"] == [done]


def test_nothing_is_lost_when_a_write_that_folds_is_in_doubt(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    oldest = queue.submitted(slide)
    queue.decide(oldest, "cancel")
    fill(queue, slide, MAX_FINISHED - 1)
    last = queue.submitted(slide, parameters={"n": "last"})
    site.gateway.fail_next("put_metadata", after=True)
    site.gateway.fail_next("get_metadata")
    assert queue.decide(last, "cancel").status == 503
    assert queue.decide(last, "cancel").status == 200
    assert queue.status(oldest) == "cancelled"
    site.restart(kill=True)
    assert queue.status(oldest) == "cancelled"


def test_what_a_write_would_have_archived_is_not_told_where_it_did_not_take_place(
    site: MemorySite, queue: Queue
) -> None:
    oldest = queue.submitted(slide := site.new_slide())
    fill(queue, slide)
    site.gateway.fail_next("put_metadata")
    site.gateway.fail_next("get_metadata")
    assert queue.decide(oldest, "cancel").status == 503
    site.pass_time(10)
    assert queue.status(oldest) == "pending"
    assert [event.event for event, about in site.audit.events if about == oldest] == ["submitted"]


def test_the_archive_is_put_back_where_a_full_disk_cut_the_next_one_off(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, put = archived_result(site, queue, slide := site.new_slide()), site.gateway.put_attachment
    last = queue.submitted(slide, parameters={"n": "last"})
    room = len(site.gateway.get_attachment(slide.series, ARCHIVE) or b"")

    def put_on_a_full_disk(series: str, number: int, content: bytes) -> None:
        put(series, number, content[:room])
        if len(content) > room:
            raise StorageError("Orthanc could not write it whole.")

    monkeypatch.setattr(site.gateway, "put_attachment", put_on_a_full_disk)
    assert queue.decide(last, "cancel").status == 503
    site.restart(kill=True)
    assert (queue.status(done), queue.status(last), site.warnings) == ("completed", "pending", [])


def spoil(site: MemorySite, slide: Slide, *, gone: bool) -> bytes:
    content = site.gateway.get_attachment(slide.series, ARCHIVE) or b""
    site.gateway.delete_attachment(slide.series, ARCHIVE)
    if not gone:
        site.gateway.put_attachment(slide.series, ARCHIVE, content[:-5])
    return content[:-5]


@pytest.mark.parametrize("gone", [False, True])
def test_no_result_is_deleted_where_the_archive_is_damaged_or_gone(
    site: MemorySite, queue: Queue, gone: bool
) -> None:
    archived_result(site, queue, slide := site.new_slide())
    results = [number for number in site.gateway.list_attachments(slide.series) if number > DAMAGED]
    spoil(site, slide, gone=gone)
    for _ in range(2):
        site.restart(kill=True)
        assert set(results) <= set(site.gateway.list_attachments(slide.series))
        fill(queue, slide)  # the archive is begun afresh, which does not tell what was in it
    assert any("archive" in warning for warning in site.warnings)


def test_a_damaged_state_does_not_take_its_archive_along(site: MemorySite, queue: Queue) -> None:
    done = archived_result(site, queue, slide := site.new_slide())
    site.gateway.put_metadata(slide.series, 5000, b"damaged")
    for _ in range(2):
        site.restart(kill=True)
        assert heatmap_status(site, done) == 200
        assert queue.submit(slide).json["request_id"] == done
        fill(queue, slide, MAX_FINISHED + 1)


def test_a_damaged_archive_is_kept_before_it_is_begun_afresh(site: MemorySite, queue: Queue) -> None:
    archived_result(site, queue, slide := site.new_slide())
    damaged = spoil(site, slide, gone=False)
    site.restart(kill=True)
    fill(queue, slide)
    assert site.gateway.get_attachment(slide.series, DAMAGED) == damaged
    assert json.loads(site.gateway.get_attachment(slide.series, ARCHIVE) or b"")["requests"]


def test_a_damaged_archive_that_cannot_be_kept_is_not_overwritten(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived_result(site, queue, slide := site.new_slide())
    damaged, put = spoil(site, slide, gone=False), site.gateway.put_attachment
    monkeypatch.setattr(site.gateway, "put_attachment", lambda series, number, _: put(series, number, b"?"))
    site.restart(kill=True)
    answer = queue.submit(slide)
    assert (answer.status, answer.json["code"]) == (503, "storage_unavailable")
    assert site.gateway.get_attachment(slide.series, ARCHIVE) == damaged


@pytest.mark.parametrize("status", ["cancelled", "paused"])
def test_an_archive_of_a_newer_plugin_is_never_rewritten(site: MemorySite, queue: Queue, status: str) -> None:
    archived_result(site, queue, slide := site.new_slide())
    content = json.loads(site.gateway.get_attachment(slide.series, ARCHIVE) or b"")
    content["schema"] = 2
    content["requests"][0]["status"] = status
    newer = json.dumps(content).encode()
    site.gateway.put_attachment(slide.series, ARCHIVE, newer)
    held = site.gateway.list_attachments(slide.series)
    site.restart(kill=True)
    answer = queue.submit(slide, force=True)
    assert (answer.status, "newer" in answer.json["error"]) == (503, True)
    assert site.gateway.get_attachment(slide.series, ARCHIVE) == newer
    assert site.gateway.list_attachments(slide.series) == held


def test_a_state_of_a_newer_plugin_is_not_rewritten_for_an_archive_of_this_one(
    site: MemorySite, queue: Queue
) -> None:
    archived_result(site, queue, slide := site.new_slide())
    newer = json.dumps({**json.loads(state_of(site, slide)), "schema": 2}).encode()
    site.gateway.put_metadata(slide.series, 5000, newer)
    site.restart(kill=True)
    answer = queue.submit(slide, force=True)
    assert (answer.status, "newer" in answer.json["error"]) == (503, True)
    assert state_of(site, slide) == newer


def test_an_archive_of_a_newer_plugin_is_not_rewritten_where_the_state_is_damaged(
    site: MemorySite, queue: Queue
) -> None:
    archived_result(site, queue, slide := site.new_slide())
    content = json.loads(site.gateway.get_attachment(slide.series, ARCHIVE) or b"")
    newer = json.dumps({**content, "schema": 2}).encode()
    site.gateway.put_attachment(slide.series, ARCHIVE, newer)
    site.gateway.put_metadata(slide.series, 5000, b"damaged")
    site.restart(kill=True)
    assert queue.submit(slide, force=True).status == 503
    assert site.gateway.get_attachment(slide.series, ARCHIVE) == newer


def deleted_first(site: MemorySite, slide: Slide) -> None:
    site.gateway.delete_series(slide.series)
    series_deleted(site.application.core, slide.series)
    site.gateway.add_slide(slide.series_uid, slide.study_uid)
    series_created(site.application.core, slide.series)


@pytest.mark.parametrize("store_again", [MemorySite.overwrite, deleted_first])
def test_archived_requests_stay_with_a_slide_that_is_stored_again(
    site: MemorySite, queue: Queue, store_again: Callable[[MemorySite, Slide], None]
) -> None:
    done = archived_result(site, queue, slide := site.new_slide())
    store_again(site, slide)
    for _ in range(2):
        request = queue.get(done)
        assert (request["status"], request["flags"][-1]) == ("completed", "source_replaced")
        assert (request["artifacts"], request["result"]) == ([], None)
        site.restart(kill=True)


def test_a_review_before_a_slide_stored_again_is_carried_over_is_kept(site: MemorySite, queue: Queue) -> None:
    done = archived_result(site, queue, slide := site.new_slide())
    site.gateway.fail_next("instances")
    with pytest.raises(StorageError):
        site.overwrite(slide)
    assert queue.decide(done, "review", verdict="agree").status == 200
    site.pass_time(10)
    for _ in range(2):
        request = queue.get(done)
        assert (request["review"]["verdict"], request["flags"][-1]) == ("agree", "source_replaced")
        site.restart(kill=True)


def test_a_lost_archive_of_cancelled_requests_is_written_again(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    fill(queue, slide, MAX_FINISHED + 1)
    another = queue.submitted(slide, parameters={"n": "open"})
    site.gateway.delete_series(slide.series)
    site.gateway.add_slide(slide.series_uid, slide.study_uid)
    queue.decide(another, "cancel")  # a transition before the news writes the state again
    site.gateway.delete_attachment(slide.series, ARCHIVE)
    series_deleted(site.application.core, slide.series)
    site.restart(kill=True)
    assert len(site.application.core.index.snapshot()) == MAX_FINISHED + 2


def test_the_deletion_of_an_archived_request_is_audited(site: MemorySite, queue: Queue) -> None:
    done = archived_result(site, queue, slide := site.new_slide())
    site.delete(slide)
    assert ("source_deleted", done) in [(event.event, subject) for event, subject in site.audit.events]
