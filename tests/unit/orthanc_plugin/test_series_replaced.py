# SPDX-License-Identifier: AGPL-3.0-or-later
"""A slide is stored again or deleted at the worst moment: no request is lost, nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from orthanc_plugin.errors import ApiError, PluginError, StorageError
from orthanc_plugin.gateway import InstanceInfo
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.service.changes import series_created, series_deleted
from orthanc_plugin.service.publish import publish
from tests.support.queue_client import PNG, RESULT, Queue, named
from tests.support.sites import WORKER, MemorySite, Slide
from tests.support.tiny_dicom import tiny_result

STATE = 5000


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


def store_again(site: MemorySite, slide: Slide, content: bytes = b"changed") -> None:
    """Let Orthanc replace the slide's only instance; the plugin has not heard of it yet."""
    site.gateway.delete_series(slide.series)
    site.gateway.add_slide(slide.series_uid, slide.study_uid)
    if content:
        site.gateway.add_instance(slide.series, slide.sop_uid, content=b"\0" * 128 + b"DICM" + content)


def hear_of_it(site: MemorySite, slide: Slide) -> None:
    series_deleted(site.application.core, slide.series)
    series_created(site.application.core, slide.series)


def test_a_submit_between_deletion_and_return_keeps_the_older_requests(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    older = queue.submitted(slide)
    site.gateway.delete_series(slide.series)
    series_deleted(site.application.core, slide.series)
    store_again(site, slide)
    newer = queue.submitted(slide, parameters={"a": 1})
    series_created(site.application.core, slide.series)

    site.restart(kill=True)
    assert queue.status(older) == "pending"
    assert queue.status(newer) == "pending"


@pytest.mark.parametrize("is_deleted_twice", [True, False])
@pytest.mark.parametrize("had_more", [True, False])
def test_no_number_of_a_file_is_given_away_twice_where_a_slide_returns(
    site: MemorySite, queue: Queue, had_more: bool, is_deleted_twice: bool
) -> None:
    def next_number() -> int:
        return int(json.loads(site.gateway.get_metadata(slide.series, STATE) or b"")["next_number"])

    slide = site.new_slide()
    if had_more:
        queue.completed(slide)
    else:
        queue.submitted(slide)
        queue.decide(queue.claim().request_id, "cancel")
    numbers = [next_number()]
    site.delete(slide)
    store_again(site, slide)
    for number in range(1 if had_more else 4):
        queue.submitted(slide, parameters={"a": number})
        queue.claim(f"w{number}")
    numbers.append(next_number())
    assert (numbers[0] > numbers[1]) == had_more
    if is_deleted_twice:
        site.delete(slide)
        store_again(site, slide)
    series_created(site.application.core, slide.series)
    assert next_number() == max(numbers)


def test_of_a_slide_stored_again_is_told_no_more_where_the_write_was_in_doubt(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, put = site.new_slide(), site.gateway.put_metadata
    request_id = queue.submitted(slide)
    site.delete(slide)
    store_again(site, slide)

    def put_and_fail(series: str, number: int, value: bytes) -> None:
        monkeypatch.undo()
        put(series, number, value)
        site.gateway.fail_next("get_metadata")
        raise StorageError("Orthanc does not answer.")

    monkeypatch.setattr(site.gateway, "put_metadata", put_and_fail)
    with pytest.raises(ApiError):
        series_created(site.application.core, slide.series)
    site.pass_time(10)
    said = [event.event for event, about in site.audit.events if about == request_id]
    assert said == ["submitted", "source_deleted", "source_replaced"]


def test_a_look_between_deletion_and_return_keeps_the_requests(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    site.gateway.delete_series(slide.series)
    series_deleted(site.application.core, slide.series)
    store_again(site, slide)
    site.application.core.store.load(slide.series)
    series_created(site.application.core, slide.series)
    assert queue.status(request_id) == "pending"


def test_a_write_that_meets_the_gap_keeps_the_requests(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    site.gateway.delete_series(slide.series)
    assert queue.decide(request_id, "cancel").status == 410
    store_again(site, slide)
    site.application.core.store.load(slide.series)
    hear_of_it(site, slide)

    site.restart(kill=True)
    assert queue.status(request_id) == "pending"


@pytest.mark.parametrize("operation", ["get_metadata", "put_metadata", "instances", "list_attachments"])
@pytest.mark.parametrize("seen_gone", [True, False])
def test_requests_whose_carrying_over_failed_are_carried_over_later(
    site: MemorySite, queue: Queue, operation: str, seen_gone: bool
) -> None:
    slide = site.new_slide()
    lease = queue.completed(slide)
    request_id = queue.submitted(slide, parameters={"a": 1})
    site.gateway.delete_series(slide.series)
    if seen_gone:
        series_deleted(site.application.core, slide.series)
    store_again(site, slide)
    site.gateway.fail_next(operation)
    for hears in (series_deleted, series_created):
        _quietly(lambda hears=hears: hears(site.application.core, slide.series))  # type: ignore[misc]
    site.pass_time(30)
    assert site.application.core.replaced_unwritten == {}

    site.restart(kill=True)
    assert queue.status(request_id) == "pending"
    assert queue.get(lease.request_id)["flags"][-1] == "source_replaced"


def test_a_deletion_that_could_not_be_looked_into_is_seen_to_later(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.completed(slide).request_id
    site.gateway.delete_series(slide.series)
    site.gateway.fail_next("series")
    _quietly(lambda: series_deleted(site.application.core, slide.series))
    assert queue.status(request_id) == "completed"
    site.pass_time(10)
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 410


def _quietly(action: Callable[[], Any]) -> None:
    with contextlib.suppress(PluginError):
        action()


def test_a_transition_before_the_news_does_not_hide_that_the_files_are_gone(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    lease = queue.completed(slide)
    store_again(site, slide)
    assert queue.decide(lease.request_id, "review", verdict="agree").status == 200
    hear_of_it(site, slide)
    request = queue.get(lease.request_id)
    assert request["flags"][-1] == "source_replaced"
    assert request["artifacts"] == []


def test_late_news_of_an_earlier_deletion_leaves_a_slide_with_its_results_as_it_is(
    site: MemorySite, queue: Queue
) -> None:
    lease = queue.completed(slide := site.new_slide())
    before = site.gateway.get_metadata(slide.series, STATE)
    hear_of_it(site, slide)
    request = queue.get(lease.request_id)
    assert (request["flags"], request["result"]) == (["unapproved_model"], RESULT)
    assert site.gateway.get_metadata(slide.series, STATE) == before


def test_news_of_a_deletion_that_took_a_result_along_says_so(site: MemorySite, queue: Queue) -> None:
    lease = queue.completed(slide := site.new_slide())
    known = site.application.core.index.get(lease.request_id)
    assert known is not None
    assert known.record is not None
    site.gateway.delete_metadata(slide.series, known.record.number)
    hear_of_it(site, slide)
    request = queue.get(lease.request_id)
    assert "source_replaced" in request["flags"]
    assert request["result"] is None


def test_a_slide_stored_again_unchanged_does_not_cost_the_worker_its_work(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    lease = queue.claim()
    lease.heartbeat()
    lease.put("heatmap.png", PNG)
    store_again(site, slide, content=b"")
    hear_of_it(site, slide)

    assert lease.complete(named("heatmap.png", PNG)).json["code"] == "artifact_mismatch"
    assert lease.put("heatmap.png", PNG).status == 200
    assert lease.complete(named("heatmap.png", PNG)).status == 200
    assert queue.status(request_id) == "completed"


def test_a_worker_has_its_whole_lease_after_its_slide_has_come_back(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    queue.claim().heartbeat()
    site.delete(slide)
    store_again(site, slide, content=b"")
    series_created(site.application.core, slide.series)
    site.pass_time(1.5)  # more than until the first heartbeat
    assert queue.status(request_id) == "processing"


@pytest.mark.parametrize("is_restarted", [True, False])
def test_an_older_worker_keeps_its_half_hour_over_a_slide_stored_again(
    site: MemorySite, queue: Queue, is_restarted: bool
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    path = f"/api/pathology/update-status/{request_id}/"
    assert site.call("POST", path, user=WORKER, body={"status": "processing"}).status == 200
    if is_restarted:
        site.restart(kill=True)
    site.delete(slide)
    store_again(site, slide, content=b"")
    series_created(site.application.core, slide.series)
    site.pass_time(600)
    assert queue.status(request_id) == "processing"


def test_a_slide_whose_result_went_with_it_is_analysed_again_without_force(
    site: MemorySite, queue: Queue
) -> None:
    lease = queue.completed(slide := site.new_slide())
    store_again(site, slide, content=b"")
    hear_of_it(site, slide)
    again = queue.submit(slide)
    assert again.status == 201
    assert again.json["request"]["fingerprint"] == queue.get(lease.request_id)["fingerprint"]
    assert queue.submit(slide).json["request_id"] == again.json["request_id"]


def before_it_is_carried_over(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]
) -> None:
    """Let something happen, once, after the news of a slide stored again and before that is seen to."""
    read, left = site.gateway.instances, [act]

    def instances(series_id: str) -> tuple[InstanceInfo, ...]:
        if left:
            left.pop()()
        return read(series_id)

    monkeypatch.setattr(site.gateway, "instances", instances)


def test_a_result_delivered_before_a_slide_stored_again_is_seen_to_stays(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    lease = queue.claim()
    store_again(site, slide, content=b"")
    before_it_is_carried_over(site, monkeypatch, lease.complete)
    hear_of_it(site, slide)
    request = queue.get(request_id)
    assert (request["status"], request["result"]) == ("completed", RESULT)


def test_a_result_delivered_between_two_that_carry_a_slide_over_stays(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    store_again(site, slide, content=b"")

    def another_carries_over() -> None:
        series_deleted(site.application.core, slide.series)
        assert queue.claim().complete().status == 200

    before_it_is_carried_over(site, monkeypatch, another_carries_over)
    hear_of_it(site, slide)
    request = queue.get(request_id)
    assert (request["status"], request["result"]) == ("completed", RESULT)


def test_a_result_delivered_after_the_slide_was_stored_again_is_not_lost_with_an_earlier_one(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    earlier = queue.completed(slide).request_id
    later = queue.submitted(slide, parameters={"a": 1})
    lease = queue.claim()
    store_again(site, slide, content=b"")
    assert lease.complete().status == 200
    hear_of_it(site, slide)
    assert "source_replaced" in queue.get(earlier)["flags"]
    request = queue.get(later)
    assert ("source_replaced" in request["flags"], request["result"]) == (False, RESULT)
    said = [about for event, about in site.audit.events if event.event == "source_replaced"]
    assert said == [earlier]


def test_a_deletion_that_two_hear_of_at_once_is_audited_once(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    site.gateway.delete_series(slide.series)
    core = site.application.core
    other, whole = threading.Thread(target=series_deleted, args=(core, slide.series)), core.index.whole

    def whole_meanwhile(state: SeriesState) -> SeriesState:
        monkeypatch.undo()
        other.start()
        other.join(0.2)  # it waits for us
        return whole(state)

    monkeypatch.setattr(core.index, "whole", whole_meanwhile)
    series_deleted(core, slide.series)
    other.join()
    said = [event.event for event, subject in site.audit.events if subject == request_id]
    assert said == ["submitted", "source_deleted"]


def written_by_a_newer_plugin(site: MemorySite, slide: Slide) -> bytes:
    """Let the state of a slide be one that a newer plugin wrote, and this one understands."""
    state = json.loads(site.gateway.get_metadata(slide.series, STATE) or b"")
    newer = json.dumps({**state, "schema": 2}).encode()
    site.gateway.put_metadata(slide.series, STATE, newer)
    site.restart(kill=True)
    return newer


def test_the_state_that_a_newer_plugin_wrote_is_not_carried_over(site: MemorySite, queue: Queue) -> None:
    lease = queue.completed(slide := site.new_slide())
    newer = written_by_a_newer_plugin(site, slide)
    known = site.application.core.index.get(lease.request_id)
    assert known is not None
    site.gateway.delete_attachment(slide.series, known.artifacts[0].number)
    with pytest.raises(ApiError, match="newer"):
        series_deleted(site.application.core, slide.series)
    assert site.gateway.get_metadata(slide.series, STATE) == newer


def test_requests_that_a_newer_plugin_wrote_and_that_went_with_their_slide_are_carried_over(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    written_by_a_newer_plugin(site, slide)
    site.overwrite(slide)
    site.restart(kill=True)
    assert queue.status(request_id) == "pending"


def deliver(queue: Queue, slide: Slide) -> tuple[str, bytes]:
    """Bring a request to `publishing`; the storing of its DICOM result fails for now."""
    request_id = queue.submitted(slide)
    lease = queue.claim()
    lease.heartbeat()
    content = tiny_result(slide.study_uid)
    lease.put("report.dcm", content, "application/dicom")
    assert lease.complete(named("report.dcm", content)).status == 503
    return request_id, content


def test_a_delivered_request_whose_files_went_unnoticed_is_analysed_again(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    site.gateway.fail_next("store_instance")
    request_id, _ = deliver(queue, slide)
    store_again(site, slide)
    site.application.core.store.carry_over(  # a transition that came before the news
        slide.series, site.application.core.store.load(slide.series), lambda request: request
    )
    site.pass_time(1)
    assert queue.status(request_id) == "pending"


def test_no_dicom_result_stays_of_a_slide_stored_again_while_it_was_published(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = site.new_slide()
    site.gateway.fail_next("store_instance")
    request_id, _ = deliver(queue, slide)
    stored = site.gateway.store_instance

    def stored_meanwhile(content: bytes) -> str:
        instance = stored(content)
        store_again(site, slide)
        hear_of_it(site, slide)
        return instance

    monkeypatch.setattr(site.gateway, "store_instance", stored_meanwhile)
    publish(site.application.core, request_id)
    assert queue.status(request_id) == "pending"
    assert site.series_ids() == {slide.series}


def test_a_slide_deleted_twice_before_its_return_is_heard_of_keeps_all_its_requests(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    older = queue.submitted(slide)
    site.delete(slide)
    store_again(site, slide)
    newer = queue.submitted(slide, parameters={"a": 1})
    site.delete(slide)
    store_again(site, slide)
    series_created(site.application.core, slide.series)

    site.restart(kill=True)
    assert queue.status(older) == "pending"
    assert queue.status(newer) == "pending"


def test_what_went_with_the_last_slides_is_kept_for_their_return_and_no_more(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    site.delete(slide)
    for _ in range(150):
        site.delete(site.new_slide())  # nothing went with these
    store_again(site, slide)
    series_created(site.application.core, slide.series)
    assert queue.status(request_id) == "pending"

    for _ in range(110):
        queue.submitted(slide := site.new_slide())
        site.delete(slide)
    assert len(site.application.core.replaced) == 100


@pytest.mark.parametrize(
    ("after_s", "flags"), [(5, ["unapproved_model", "slide_changed"]), (-5, ["unapproved_model"])]
)
def test_a_start_flags_the_result_of_a_slide_whose_news_died_with_orthanc(
    site: MemorySite, queue: Queue, after_s: float, flags: list[str]
) -> None:
    """STABLE_SERIES never comes where Orthanc is killed inside StableAge; its date of the series stays."""
    slide = site.new_slide()
    request_id = queue.completed(slide).request_id
    site.gateway.add_instance(slide.series, "1.2.3.4", content=b"\0" * 128 + b"DICM")
    site.gateway.date(slide.series, site.clock.now() + after_s)
    site.restart(kill=True)
    assert queue.get(request_id)["flags"] == flags


def test_a_slide_that_is_as_it_was_analysed_is_not_flagged_at_a_start(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.completed(slide).request_id
    site.gateway.date(slide.series, site.clock.now() + 5)
    site.restart(kill=True)
    assert queue.get(request_id)["flags"] == ["unapproved_model"]


def test_a_slide_that_cannot_be_looked_at_keeps_no_other_from_it(site: MemorySite, queue: Queue) -> None:
    slides = sorted((site.new_slide() for _ in range(2)), key=lambda slide: slide.series)
    requests = [queue.completed(slide).request_id for slide in slides]
    for slide in slides:
        site.gateway.add_instance(slide.series, f"{slide.sop_uid}.4", content=b"\0" * 128 + b"DICM")
        site.gateway.date(slide.series, site.clock.now() + 5)
    site.gateway.fail_next("instances")
    site.restart(kill=True)
    assert [queue.get(request_id)["flags"][-1] for request_id in requests] == [
        "unapproved_model",
        "slide_changed",
    ]
    assert any(slides[0].series in warning for warning in site.warnings)
