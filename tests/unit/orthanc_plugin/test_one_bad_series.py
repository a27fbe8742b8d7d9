# SPDX-License-Identifier: AGPL-3.0-or-later
"""A series whose state cannot be written or has no room left holds up nobody else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orthanc_plugin.errors import StorageError
from orthanc_plugin.gateway import InstanceInfo
from orthanc_plugin.storage.codec import decode_state, encode_state
from orthanc_plugin.storage.numbering import LAST_NUMBER
from tests.support.queue_client import Queue
from tests.support.sites import MemorySite, Slide


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


def test_a_request_of_a_newer_plugin_does_not_hold_up_the_others(site: MemorySite, queue: Queue) -> None:
    newer = site.new_slide()
    queue.submitted(newer, priority=100)
    state = json.loads(site.gateway.get_metadata(newer.series, 5000) or b"")
    site.gateway.put_metadata(newer.series, 5000, json.dumps({**state, "schema": 2}).encode())
    site.restart(kill=True)
    waiting = queue.submitted()

    assert queue.claim().request_id == waiting
    assert queue.try_claim().status == 204


def test_a_series_that_cannot_be_read_does_not_hold_up_the_others(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable, _ = submit_and_lose_its_file(site, queue, monkeypatch)
    for _ in range(3):
        site.pass_time(60)  # it has rested, and is first again
        waiting = queue.submitted()
        lease = queue.claim()
        lease.complete()
        assert lease.request_id == waiting
    assert queue.status(unreadable) == "pending"


def submit_and_lose_its_file(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[str]]:
    """Submit a slide before all others and let Orthanc lose its file; return its request and the tries."""
    slide = site.new_slide()
    request_id = queue.submitted(slide, priority=100)
    return request_id, lose_files(site, [slide], monkeypatch)


def lose_files(site: MemorySite, slides: list[Slide], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let Orthanc read no file of some slides any more; return the series of each try, as they come."""
    lost, read = {slide.series for slide in slides}, site.gateway.instances
    tried: list[str] = []

    def instances(series_id: str) -> tuple[InstanceInfo, ...]:
        if series_id in lost:
            tried.append(series_id)
            raise StorageError("Orthanc could not read the slide.")
        return read(series_id)

    monkeypatch.setattr(site.gateway, "instances", instances)
    return tried


@pytest.mark.parametrize(("lost", "sound", "status"), [(1, 2, 201), (3, 1, 201), (4, 4, 503), (2, 0, 503)])
def test_a_study_is_submitted_but_for_slides_whose_file_is_lost_unless_those_are_many(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch, lost: int, sound: int, status: int
) -> None:
    slides = [site.new_slide() for _ in range(lost + sound)]
    series = site.gateway.series(slides[0].series)
    assert series is not None
    lose_files(site, slides[:lost], monkeypatch)
    answer = site.call("POST", "/pathology/analyze", body={"study": series.study_id})
    assert answer.status == status
    if status == 201:
        skipped = [(item["series"], item["code"]) for item in answer.json["skipped"]]
        assert sorted(skipped) == sorted((slide.series, "storage_unavailable") for slide in slides[:lost])
        assert len(answer.json["requests"]) == sound
    else:
        assert answer.json["code"] == "storage_unavailable"
        assert site.call("GET", "/pathology/requests/").json["count"] == 0


def test_what_cannot_be_given_is_tried_ever_more_rarely_and_says_why(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as lost:
        request_id, tried = submit_and_lose_its_file(site, queue, lost)
        tried_after = []
        for second in range(130):
            before = len(tried)
            queue.try_claim()
            tried_after += [second] * (len(tried) - before)
            site.pass_time(1)
        assert tried_after == [0, 2, 6, 14, 30, 62, 122]
        (note,) = queue.get(request_id)["notes"]
        assert note["code"] == "storage_unavailable"
        assert note["message"].endswith("is tried again by itself: Orthanc could not read the slide.")
        assert len(site.warnings) == 1
        assert request_id in site.warnings[0]
    site.pass_time(60)
    lease = queue.claim()
    assert lease.request_id == request_id
    lease.hand_back()
    assert queue.get(request_id)["notes"] == []


def test_a_claim_ends_at_the_third_request_of_which_orthanc_reads_nothing(
    site: MemorySite, queue: Queue
) -> None:
    requests = [queue.submitted() for _ in range(4)]
    for _ in range(3):
        site.gateway.fail_next("instances")
    assert queue.try_claim().status == 503
    assert [queue.get(item)["notes"] == [] for item in requests] == [False, False, False, True]
    assert queue.claim().request_id == requests[3]


def test_many_slides_whose_files_are_lost_keep_none_from_its_turn_and_no_worker_away(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = [site.new_slide() for _ in range(12)]
    requests = [queue.submitted(slide, priority=100) for slide in slides]
    tried = lose_files(site, slides, monkeypatch)
    assert [queue.try_claim().status for _ in range(5)] == [503, 503, 503, 503, 204]
    for _ in range(3):
        site.pass_time(60)  # all have rested, and are first again
        assert queue.try_claim().status == 204
        tried.clear()
        waiting = queue.submitted()
        lease = queue.claim()
        assert (lease.request_id, len(tried)) == (waiting, 3)
        lease.complete()
    site.pass_time(60)
    monkeypatch.undo()
    assert queue.claim().request_id in requests


def use_up_numbers(site: MemorySite, slide: Slide) -> None:
    state = decode_state(slide.series, site.gateway.get_metadata(slide.series, 5000) or b"")
    full = encode_state(replace(state, next_number=LAST_NUMBER + 1))
    site.gateway.put_metadata(slide.series, 5000, full)
    site.restart(kill=True)


def test_a_request_on_a_series_without_room_for_results_fails(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    use_up_numbers(site, slide)

    assert queue.try_claim().status == 204
    request = queue.get(request_id)
    assert (request["status"], request["error"]["code"]) == ("failed", "too_many_requests_on_series")


def test_the_log_is_not_filled_by_a_lease_on_a_series_that_went_unnoticed(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    queue.claim().heartbeat()
    site.gateway.delete_series(slide.series)  # and Orthanc's word of it is still on its way

    site.pass_time(3)
    site.pass_time(10)
    assert site.warnings == []
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 410


def test_a_clock_that_was_set_back_does_not_keep_a_request_for_ever(site: MemorySite, queue: Queue) -> None:
    queue.submitted()
    queue.claim().fail(retryable=True)
    site.clock.shift(-365 * 86400)
    site.pass_time(1)
    queue.claim()


def test_a_clock_that_was_set_back_does_not_turn_a_worker_away(site: MemorySite, queue: Queue) -> None:
    queue.try_claim("other")
    request_id = queue.submitted()
    queue.claim("one")  # not confirmed: given again, first to others
    site.pass_time(2)
    assert queue.status(request_id) == "pending"
    site.clock.shift(-3600)
    assert queue.try_claim("one").status == 200
