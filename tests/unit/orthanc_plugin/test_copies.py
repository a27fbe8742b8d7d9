# SPDX-License-Identifier: AGPL-3.0-or-later
"""A slide is stored again and nobody is there to write its requests again: they are known by their copies."""

from __future__ import annotations

import json
from itertools import count

import pytest

from orthanc_plugin.errors import StorageError
from tests.support.queue_client import PNG, Queue, named
from tests.support.sites import MemorySite, Slide
from tests.support.tiny_dicom import tiny_result


@pytest.fixture
def site() -> MemorySite:
    return MemorySite(orthanc={"OverwriteInstances": True})


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


def store_again_unseen(site: MemorySite, slide: Slide) -> None:
    """Let Orthanc be killed after it has replaced the slide's only file, or before its requests were read."""
    site.gateway.delete_series(slide.series)
    site.gateway.add_slide(slide.series_uid, slide.study_uid)
    site.restart(kill=True)


def copied(site: MemorySite) -> set[str]:
    held = json.loads(site.gateway.get_global_property(5004) or "{}")
    return {request["request_id"] for part in held.values() for request in part["requests"]}


def test_a_request_whose_slide_was_stored_again_unseen_is_answered(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide, parameters={"a": 1}, priority=7)
    store_again_unseen(site, slide)

    request = queue.get(request_id)
    assert (request["status"], request["flags"]) == ("pending", ["source_replaced"])
    assert (request["parameters"], request["priority"], request["created_by"]) == ({"a": 1}, 7, "admin")
    lease = queue.claim()
    lease.put("heatmap.png", PNG)
    assert lease.complete(named("heatmap.png", PNG)).status == 200
    site.restart(kill=True)
    assert queue.status(request_id) == "completed"


def test_a_lease_of_before_brings_nothing_to_a_request_that_was_found_again(
    site: MemorySite, queue: Queue
) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    before = queue.claim("before")
    store_again_unseen(site, slide)
    assert before.complete().json["code"] == "lease_lost"
    assert queue.claim("after").complete().status == 200
    assert queue.status(request_id) == "completed"


def test_it_is_found_even_where_orthanc_fails_at_first(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    for _ in range(3):
        site.gateway.fail_next("put_metadata")
    store_again_unseen(site, slide)
    for _ in range(2):
        site.pass_time(10)
    site.restart(kill=True)
    assert queue.status(request_id) == "pending"


def test_it_is_found_even_where_orthanc_could_not_read_its_slide_at_first(
    site: MemorySite, queue: Queue
) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    site.gateway.fail_next("get_metadata")
    store_again_unseen(site, slide)
    site.pass_time(10)
    site.restart(kill=True)
    assert queue.status(request_id) == "pending"


def test_every_request_of_a_cohort_is_copied_with_one_write(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.clock, "now", map(float, count(1_795_000_000)).__next__)
    slides = [site.new_slide() for _ in range(3)]
    body = {"cohort": {"series": [slide.series for slide in slides]}, "model": queue.model}
    requests = site.call("POST", "/pathology/analyze", body=body).json["requests"]
    assert copied(site) == {request["request_id"] for request in requests}
    assert [number for what, _, number in site.gateway.writes if what == "set_global_property"].count(
        5004
    ) == 1
    store_again_unseen(site, slides[1])
    assert [queue.status(request["request_id"]) for request in requests] == ["pending"] * 3


def test_a_request_that_is_tried_again_by_a_person_is_copied_again(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    queue.claim().fail("no_tissue", retryable=False)
    site.pass_time(61)
    assert copied(site) == set()
    assert queue.decide(request_id, "retry").status == 200
    store_again_unseen(site, slide)
    assert queue.status(request_id) == "pending"


@pytest.mark.parametrize("decision", ["cancel", "complete"])
def test_what_has_ended_is_copied_no_more(site: MemorySite, queue: Queue, decision: str) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    if decision == "cancel":
        queue.decide(request_id, "cancel")
    else:
        queue.claim().complete()
    site.pass_time(61)
    store_again_unseen(site, slide)
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 404


def test_a_request_of_a_deleted_slide_does_not_come_back_with_it(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    site.gateway.delete_series(slide.series)
    site.restart(kill=True)
    assert [event.event for event, _ in site.audit.events] == ["submitted"]
    site.pass_time(10)
    store_again_unseen(site, slide)
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 404


def test_a_submit_that_found_an_earlier_request_leaves_no_copy(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    assert queue.submit(slide).status == 200
    assert copied(site) == {request_id}


def test_what_was_never_accepted_is_not_found_by_its_copy(site: MemorySite, queue: Queue) -> None:
    accepted = queue.submitted(slide := site.new_slide())
    site.gateway.fail_next("put_metadata")
    assert queue.submit(slide, parameters={"a": 1}).status == 503
    assert len(copied(site)) == 2
    site.restart(kill=True)
    assert [request.request_id for request in site.application.core.index.snapshot()] == [accepted]


def test_nor_is_it_where_its_slide_is_not_listed_as_one_with_open_requests(
    site: MemorySite, queue: Queue
) -> None:
    finished = queue.completed(slide := site.new_slide()).request_id
    site.gateway.fail_next("set_global_property", after=True)
    assert queue.submit(slide, parameters={"a": 1}).status == 503
    left = site.gateway.get_global_property(5004) or ""
    site.pass_time(61)
    site.gateway.set_global_property(5004, left)
    site.restart(kill=True)
    assert [request.request_id for request in site.application.core.index.snapshot()] == [finished]


def test_a_copy_whose_writing_was_in_doubt_is_given_up_like_others(site: MemorySite, queue: Queue) -> None:
    accepted = queue.submitted(slide := site.new_slide())
    site.gateway.fail_next("set_global_property", after=True)
    assert queue.submit(slide, parameters={"a": 1}).status == 503
    assert len(copied(site)) == 2
    site.pass_time(61)
    assert copied(site) == {accepted}


def test_a_request_with_dicom_results_is_copied_no_longer_than_it_is_open(
    site: MemorySite, queue: Queue
) -> None:
    queue.submitted(slide := site.new_slide())
    report = tiny_result(slide.study_uid)
    lease = queue.claim()
    lease.put("report.dcm", report, "application/dicom")
    assert lease.complete(named("report.dcm", report)).status == 200
    assert copied(site) == set()


def test_dicom_results_that_were_completed_are_not_in_the_way_of_a_request_found_again(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(request_id: str) -> None:
        raise StorageError("Orthanc was killed here.")

    request_id = queue.submitted(slide := site.new_slide())
    report = tiny_result(slide.study_uid)
    monkeypatch.setattr(site.application.core.copies, "drop", killed)
    for _ in range(2):
        lease = queue.claim()
        lease.put("report.dcm", report, "application/dicom")
        assert lease.complete(named("report.dcm", report)).status == 200
        assert queue.status(request_id) == "completed"
        store_again_unseen(site, slide)


def test_nothing_is_accepted_whose_copy_cannot_be_written(site: MemorySite, queue: Queue) -> None:
    queue.submitted(slide := site.new_slide())  # the slide is listed by now: the next write is the copy's
    site.gateway.fail_next("set_global_property")
    assert queue.submit(slide, parameters={"a": 1}).status == 503
    assert len(site.application.core.index.snapshot()) == 1


def test_a_slide_of_several_files_stays_when_one_is_stored_again_and_needs_no_copy(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    site.gateway.add_instance(slide.series, f"{slide.series_uid}.2")
    queue.submitted(slide)
    assert site.gateway.get_global_property(5004) is None


def test_an_orthanc_that_overwrites_nothing_needs_no_copies() -> None:
    site = MemorySite()
    Queue(site).submitted()
    assert site.gateway.get_global_property(5004) is None


@pytest.mark.parametrize(
    "damaged", ["[", "[]", '{"a": {"schema": 1}}', '{"a": {"schema": 2, "requests": 7}}']
)
def test_damaged_copies_are_reported_and_keep_nothing_from_starting(
    site: MemorySite, queue: Queue, damaged: str
) -> None:
    site.gateway.set_global_property(5004, damaged)
    site.restart(kill=True)
    assert "5004" in site.warnings[0]
    queue.submitted()
    assert queue.try_claim().status == 200
