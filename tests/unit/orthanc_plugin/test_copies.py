# SPDX-License-Identifier: AGPL-3.0-or-later
"""A slide is stored again and nobody is there to write its requests again: they are known by their copies."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from itertools import count

import pytest

from orthanc_plugin.application import Application
from orthanc_plugin.errors import StorageError
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.service.changes import find_lost, series_created
from orthanc_plugin.service.startup import load_open
from orthanc_plugin.settings import COPY_SHARDS
from orthanc_plugin.storage.copies import Copies
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


def number_for(series_id: str) -> int:
    """Return the global property that holds the copies of a series."""
    return 5004 + zlib.crc32(series_id.encode()) % 64


def stored(site: MemorySite) -> dict[int, str]:
    held = ((number, site.gateway.get_global_property(number)) for number in range(5004, 5068))
    return {number: text for number, text in held if text is not None}


def copied(site: MemorySite) -> set[str]:
    parts = [part for text in stored(site).values() for part in json.loads(text).values()]
    return {request["request_id"] for part in parts for request in part["requests"]}


def written(site: MemorySite) -> list[int]:
    """Return the properties with copies that were written, as often as they were."""
    numbers = [number for what, _, number in site.gateway.writes if what == "set_global_property"]
    return [number for number in numbers if number >= 5004]


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


def test_a_request_whose_write_was_in_doubt_is_answered_once_it_was_accepted(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    queue.decide(queue.submitted(slide, parameters={"an": "earlier one"}), "cancel")
    site.leave_in_doubt()
    assert queue.submit(slide).status == 503
    again = queue.submit(slide)
    assert (again.status, again.json["created"]) == (200, False)
    store_again_unseen(site, slide)
    assert queue.status(again.json["request"]["request_id"]) == "pending"


def test_so_is_one_whose_retry_was_in_doubt(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    queue.decide(request_id := queue.submitted(slide), "cancel")
    site.leave_in_doubt()
    assert queue.decide(request_id, "retry").status == 503
    assert queue.submit(slide).json["request"]["request_id"] == request_id
    store_again_unseen(site, slide)
    assert queue.status(request_id) == "pending"


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


def test_a_request_of_a_time_without_copies_gets_one_at_the_next_start() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted(slide := site.new_slide())
    before = queue.claim("before")
    site.gateway = overwriting(site.gateway)
    site.restart(kill=True)
    assert copied(site) == {request_id}
    store_again_unseen(site, slide)
    assert queue.status(request_id) == "pending"
    assert before.complete().json["code"] == "lease_lost"
    assert queue.claim("after").fence == 1


def test_so_does_one_that_could_not_be_read_at_that_start() -> None:
    site = MemorySite()
    request_id = Queue(site).submitted()
    site.gateway = overwriting(site.gateway)
    for _ in range(2):
        site.gateway.fail_next("get_metadata")
    site.restart(kill=True)
    assert copied(site) == set()
    site.pass_time(10)
    assert copied(site) == {request_id}


def test_a_start_at_which_none_can_be_written_says_so_and_goes_on() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    site.gateway = overwriting(site.gateway)
    site.gateway.fail_next("set_global_property")
    site.restart(kill=True)
    assert any("Not every open request has a copy yet" in warning for warning in site.warnings)
    assert queue.try_claim().status == 200


def overwriting(gateway: MemoryGateway) -> MemoryGateway:
    gateway._configuration["OverwriteInstances"] = True
    return gateway


def test_so_does_one_whose_slide_is_stored_again_with_fewer_files(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    site.gateway.add_instance(slide.series, f"{slide.series_uid}.2")
    request_id = queue.submitted(slide)
    assert copied(site) == set()
    site.overwrite(slide)
    assert copied(site) == {request_id}


def test_a_request_is_found_whose_slide_was_stored_again_before_it_could_be_read(
    site: MemorySite, queue: Queue
) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    for _ in range(2):
        site.gateway.fail_next("get_metadata")
    site.restart(kill=True)
    site.overwrite(slide)
    site.pass_time(10)
    assert queue.status(request_id) == "pending"


def test_also_where_it_is_submitted_again_meanwhile(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    for _ in range(2):
        site.gateway.fail_next("get_metadata")
    site.restart(kill=True)
    site.overwrite(slide)
    again = queue.submit(slide)
    assert (again.status, again.json["request_id"]) == (200, request_id)


def test_a_request_that_was_found_and_is_not_written_yet_is_neither_unknown_nor_submitted_anew(
    site: MemorySite, queue: Queue
) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    for _ in range(2):
        site.gateway.fail_next("instances")
    store_again_unseen(site, slide)
    assert site.call("GET", f"/pathology/requests/{request_id}").json["code"] == "starting"
    again = queue.submit(slide)
    assert (again.status, again.json["request_id"]) == (200, request_id)


def test_what_was_found_is_known_before_the_queue_answers(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    site.gateway.delete_series(slide.series)
    site.gateway.add_slide(slide.series_uid, slide.study_uid)
    core = Application(site.settings, site.gateway, site.clock, site.audit, site.warnings.append).core
    known: list[bool] = []
    monkeypatch.setattr(
        core.ready.open_known, "set", lambda: known.append(core.index.get(request_id) is not None)
    )
    load_open(core)
    assert known == [True]


def test_every_request_of_a_cohort_is_copied_with_one_write_for_each_property(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.clock, "now", map(float, count(1_795_000_000)).__next__)
    slides = [site.new_slide() for _ in range(100)]
    body = {"cohort": {"series": [slide.series for slide in slides]}, "model": queue.model}
    requests = site.call("POST", "/pathology/analyze", body=body).json["requests"]
    assert copied(site) == {request["request_id"] for request in requests}
    assert sorted(written(site)) == sorted({number_for(slide.series) for slide in slides})
    store_again_unseen(site, slides[1])
    assert [queue.status(request["request_id"]) for request in requests] == ["pending"] * 100


def test_a_submit_writes_the_copies_of_few_others(site: MemorySite, queue: Queue) -> None:
    body = {"cohort": {"series": [site.new_slide().series for _ in range(640)]}, "model": queue.model}
    site.call("POST", "/pathology/analyze", body=body)
    before = stored(site)
    queue.submitted(slide := site.new_slide())
    assert len(before) == COPY_SHARDS
    assert {number for number, text in stored(site).items() if text != before[number]} == {
        number_for(slide.series)
    }
    assert len(before[number_for(slide.series)]) < sum(map(len, before.values())) / 20


def test_a_request_that_is_tried_again_by_a_person_is_copied_again(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    queue.claim().fail("no_tissue", retryable=False)
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
    store_again_unseen(site, slide)
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 404


def test_a_copy_that_cannot_be_dropped_makes_no_decision_fail_and_is_dropped_later(
    site: MemorySite, queue: Queue
) -> None:
    request_id = queue.submitted()
    site.gateway.fail_next("set_global_property")
    assert queue.decide(request_id, "cancel").status == 200
    assert copied(site) == {request_id}
    site.pass_time(10)
    assert copied(site) == set()


def test_a_copy_stays_while_its_request_is_being_written(site: MemorySite, queue: Queue) -> None:
    queue.submitted(site.new_slide())
    request = site.application.core.index.snapshot()[0]
    copies = Copies(MemoryGateway(), 5004, site.warnings.append)
    copies.keep([request])
    assert copies.of_series() == {}, "nobody takes what was not accepted yet for lost"
    copies.prune(lambda _: True)
    copies.release([request.request_id])
    assert copies.of_series() == {request.series: (request,)}
    copies.prune(lambda _: True)
    assert copies.of_series() == {}


def test_a_request_of_a_deleted_slide_does_not_come_back_with_it(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    site.gateway.delete_series(slide.series)
    site.restart(kill=True)
    assert [event.event for event, _ in site.audit.events] == ["submitted"]
    site.pass_time(10)
    store_again_unseen(site, slide)
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 404


def test_a_submit_that_finds_earlier_requests_writes_nothing(site: MemorySite, queue: Queue) -> None:
    slides = [site.new_slide() for _ in range(3)]
    request_ids = {queue.submitted(slide) for slide in slides}
    before = list(site.gateway.writes)
    assert queue.submit(slides[0]).status == 200
    body = {"cohort": {"series": [slide.series for slide in slides]}, "model": queue.model}
    assert site.call("POST", "/pathology/analyze", body=body).status == 200
    assert site.gateway.writes == before
    assert copied(site) == request_ids


def test_what_was_never_accepted_is_not_found_by_its_copy(site: MemorySite, queue: Queue) -> None:
    accepted = queue.submitted(slide := site.new_slide())
    site.gateway.fail_next("put_metadata")
    assert queue.submit(slide, parameters={"a": 1}).status == 503
    site.pass_time(10)  # until it is known that it was not written
    assert copied(site) == {accepted}
    site.restart(kill=True)
    assert [request.request_id for request in site.application.core.index.snapshot()] == [accepted]


def test_nor_is_it_where_its_slide_is_not_listed_as_one_with_open_requests(
    site: MemorySite, queue: Queue
) -> None:
    finished = queue.completed(slide := site.new_slide()).request_id
    site.gateway.fail_next("set_global_property", after=True)
    assert queue.submit(slide, parameters={"a": 1}).status == 503
    assert copied(site) == set()
    site.restart(kill=True)
    assert [request.request_id for request in site.application.core.index.snapshot()] == [finished]


def test_a_copy_whose_writing_was_in_doubt_is_dropped_like_others(site: MemorySite, queue: Queue) -> None:
    accepted = queue.submitted(slide := site.new_slide())
    site.gateway.fail_next("set_global_property", after=True)
    assert queue.submit(slide, parameters={"a": 1}).status == 503
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
    def killed(has_ended: object, series_ids: Iterable[str] | None = None) -> None:
        raise StorageError("Orthanc was killed here.")

    request_id = queue.submitted(slide := site.new_slide())
    report = tiny_result(slide.study_uid)
    monkeypatch.setattr(site.application.core.copies, "prune", killed)
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
    assert stored(site) == {}


def test_an_orthanc_that_overwrites_nothing_neither_reads_nor_writes_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = MemorySite()
    queue = Queue(site)
    read: list[int] = []
    get = site.gateway.get_global_property

    def noted(number: int) -> str | None:
        read.append(number)
        return get(number)

    monkeypatch.setattr(site.gateway, "get_global_property", noted)
    site.restart(kill=True)
    queue.submit(slide := site.new_slide())
    queue.submit(slide)
    queue.claim().complete()
    site.pass_time(10)
    assert max(read, default=0) < 5004
    assert written(site) == []


@pytest.mark.parametrize("unreadable", [{"schema": 1}, {"schema": 2, "requests": [{"status": "paused"}]}])
def test_copies_that_cannot_be_read_are_left_as_they_are_beside_the_others(
    site: MemorySite, queue: Queue, unreadable: dict[str, object]
) -> None:
    request_id = queue.submitted(slide := site.new_slide())
    number = number_for(slide.series)
    other = next(name for name in map(str, count()) if number_for(name) == number)
    held = json.loads(site.gateway.get_global_property(number) or "")
    site.gateway.set_global_property(number, json.dumps({other: unreadable, **held}))
    store_again_unseen(site, slide)
    assert f"The copies of series {other} cannot be read" in site.warnings[0]
    assert queue.status(request_id) == "pending"
    queue.decide(request_id, "cancel")
    assert json.loads(site.gateway.get_global_property(number) or "") == {other: unreadable}


def test_copies_that_were_left_under_another_setting_of_their_numbers_are_dropped(
    site: MemorySite, queue: Queue
) -> None:
    queue.submitted(slide := site.new_slide())
    number = number_for(slide.series)
    stray = number - 1 if number > 5004 else number + 1
    site.gateway.set_global_property(stray, site.gateway.get_global_property(number) or "")
    site.restart(kill=True)
    queue.claim().complete()
    assert slide.series not in site.application.core.copies.of_series()


@pytest.mark.parametrize("damaged", ["[", "[]", '{"a": ' * 200_000])
def test_damaged_copies_are_reported_and_keep_nothing_from_starting(
    site: MemorySite, queue: Queue, damaged: str
) -> None:
    site.gateway.set_global_property(5004, damaged)
    site.restart(kill=True)
    assert "5004" in site.warnings[0]
    queue.submitted()
    assert queue.try_claim().status == 200


def test_what_memory_knows_of_a_slide_that_came_back_is_not_given_up_for_its_copies(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    done, waiting = queue.completed(slide).request_id, queue.submitted(slide, parameters={"a": 1})
    site.delete(slide)
    site.gateway.add_slide(slide.series_uid, slide.study_uid)
    site.gateway.fail_next("instances")
    with pytest.raises(StorageError):
        series_created(site.application.core, slide.series)
    find_lost(site.application.core, [slide.series])
    site.pass_time(10)
    assert (queue.status(done), queue.status(waiting)) == ("completed", "pending")
