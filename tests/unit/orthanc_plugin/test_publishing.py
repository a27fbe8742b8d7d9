# SPDX-License-Identifier: AGPL-3.0-or-later
"""DICOM results lie in a study for requests that are completed, and for no others, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from orthanc_plugin.errors import FileRefusedError, StorageError
from orthanc_plugin.queue.values import AnalysisRequest, Output
from orthanc_plugin.service.changes import series_created, series_deleted
from orthanc_plugin.service.clockwork import finish_leftovers
from orthanc_plugin.storage.unpublished import Stored, Unpublished
from tests.support.queue_client import PNG, Lease, Queue, named
from tests.support.sites import MemorySite, Slide
from tests.support.tiny_dicom import tiny_result
from tests.unit.orthanc_plugin.test_lifecycle import a_request

DAY_S = 24 * 3600.0
UNPUBLISHED = 5002


@pytest.fixture
def site() -> MemorySite:
    site = MemorySite()
    site.gateway.add_slide("1.2.3.999", "1.2.3")  # the study outlives the slide
    return site


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


@pytest.fixture
def slide(site: MemorySite) -> Slide:
    return site.new_slide()


class Delivery:
    """A lease with its DICOM results sent, and what to complete it with."""

    def __init__(self, lease: Lease, *contents: bytes) -> None:
        files = {f"result-{number}.dcm": content for number, content in enumerate(contents)}
        for name, content in files.items():
            assert lease.put(name, content, "application/dicom").status == 200
        self.request_id = lease.request_id
        self._lease = lease
        self._body = lease.body(*(named(name, content) for name, content in files.items()))

    def complete(self) -> int:
        self.last = self._lease.send(self._body)
        return self.last.status


def deliver(queue: Queue, slide: Slide, results: int = 1) -> Delivery:
    queue.submitted(slide)
    lease = queue.claim()
    lease.heartbeat()
    return Delivery(lease, *(tiny_result(slide.study_uid) for _ in range(results)))


def before_the_end_is_written(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]
) -> None:
    """Let something happen, once, when the results are stored and `completed` is about to be written."""
    write = site.gateway.put_metadata
    left = [act]

    def put_metadata(series_id: str, number: int, value: bytes) -> None:
        if number == site.settings.metadata_number and b'"status":"completed"' in value and left:
            left.pop()()
        write(series_id, number, value)

    monkeypatch.setattr(site.gateway, "put_metadata", put_metadata)


def fail() -> None:
    raise StorageError("The disk is full.")


def others(site: MemorySite, slide: Slide) -> set[str]:
    """Return the series that are neither the slide nor the one beside it."""
    kept = {slide.series, *site.gateway.lookup_series("1.2.3.999", None)}
    return site.series_ids() - kept


@pytest.mark.parametrize(("is_named", "stored"), [(True, 1), (False, 0)])
def test_of_the_files_that_were_sent_those_that_the_completion_names_are_the_result(
    site: MemorySite, queue: Queue, slide: Slide, *, is_named: bool, stored: int
) -> None:
    queue.submitted(slide)
    lease = queue.claim()
    report = tiny_result(slide.study_uid)
    assert lease.put("heatmap.png", PNG).status == 200
    assert lease.put("report.dcm", report, "application/dicom").status == 200
    files = {"heatmap.png": PNG, **({"report.dcm": report} if is_named else {})}
    assert lease.complete(*(named(name, content) for name, content in files.items())).status == 200
    assert len(others(site, slide)) == stored


def test_results_stay_when_the_slide_of_a_completed_request_is_deleted(
    site: MemorySite, queue: Queue, slide: Slide
) -> None:
    assert deliver(queue, slide, results=2).complete() == 200
    site.delete(slide)
    site.pass_time(10)
    site.restart()
    site.pass_time(10)
    assert len(others(site, slide)) == 2


def test_a_slide_deleted_while_its_result_is_stored_takes_that_along(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide)
    stored = site.gateway.store_instance

    def store_instance(content: bytes) -> str:
        site.gateway.delete_series(slide.series)
        return stored(content)

    monkeypatch.setattr(site.gateway, "store_instance", store_instance)
    assert delivery.complete() == 410
    assert not others(site, slide)


def test_a_slide_deleted_once_its_result_is_stored_takes_that_along(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide)
    before_the_end_is_written(site, monkeypatch, lambda: site.gateway.delete_series(slide.series))
    assert delivery.complete() == 410
    assert not others(site, slide)


@pytest.mark.parametrize(
    ("is_heard_of", "is_killed"), [(True, False), (True, True), (False, True)], ids=["news", "both", "kill"]
)
@pytest.mark.parametrize("refused", ["lookup_series", "delete_series", "set_global_property", None])
def test_a_slide_deleted_after_publishing_was_interrupted_takes_its_result_along(
    site: MemorySite,
    queue: Queue,
    slide: Slide,
    monkeypatch: pytest.MonkeyPatch,
    refused: str | None,
    is_heard_of: bool,
    is_killed: bool,
) -> None:
    delivery = deliver(queue, slide, results=2)
    before_the_end_is_written(site, monkeypatch, fail)
    assert delivery.complete() == 503
    assert len(others(site, slide)) == 2
    site.gateway.delete_series(slide.series)
    if is_heard_of:
        series_deleted(site.application.core, slide.series)
    if is_killed:
        site.restart(kill=True)
    if refused is not None:
        site.gateway.fail_next(refused)
    site.pass_time(10)
    site.pass_time(10)
    assert not others(site, slide)
    assert site.gateway.get_global_property(UNPUBLISHED) == "{}"


def test_a_slide_stored_again_after_publishing_was_interrupted_takes_its_result_along(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide)
    before_the_end_is_written(site, monkeypatch, fail)
    assert delivery.complete() == 503
    site.overwrite(slide)
    site.pass_time(10)
    assert queue.status(delivery.request_id) == "pending"
    assert not others(site, slide)


def test_what_fails_at_each_look_is_logged_once_until_it_is_over(
    site: MemorySite, queue: Queue, slide: Slide
) -> None:
    """A full disk over a weekend would fill the log, often on the same disk, with a line each ten seconds."""
    delivery = deliver(queue, slide)
    site.gateway.fail_next("store_instance")
    assert delivery.complete() == 503
    for _ in range(3):
        site.gateway.fail_next("store_instance")
        site.pass_time(10)
    assert [warning for warning in site.warnings if delivery.request_id in warning] == site.warnings
    assert len(site.warnings) == 1
    site.pass_time(10)
    assert queue.status(delivery.request_id) == "completed"
    assert not site.application.core.said


def test_a_result_that_went_with_its_slide_is_not_said_to_have_arrived(
    site: MemorySite, queue: Queue, slide: Slide
) -> None:
    delivery = deliver(queue, slide)
    site.gateway.fail_next("store_instance")
    assert delivery.complete() == 503
    site.overwrite(slide)
    assert delivery.complete() == 409
    assert delivery.last.json["code"] == "series_changed"
    assert queue.claim("another").complete().status == 200
    assert delivery.complete() == 409


def test_the_new_analysis_of_a_slide_stored_again_may_have_the_uids_of_the_first(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker derives them from the request."""
    series_uid = "1.2.3.77"
    queue.submitted(slide)
    lease = queue.claim()
    lease.heartbeat()
    before_the_end_is_written(site, monkeypatch, fail)
    first, second = (tiny_result(slide.study_uid, series_uid=series_uid) for _ in range(2))
    assert Delivery(lease, first).complete() == 503
    site.overwrite(slide)

    again = queue.claim()
    assert Delivery(again, second).complete() == 200
    (series_id,) = others(site, slide)
    held = site.gateway.instances(series_id)
    assert [site.gateway.dicom_file(item.instance_id) for item in held] == [second]
    site.pass_time(10)
    assert others(site, slide) == {series_id}


def test_series_are_listed_before_they_are_stored_and_taken_off_at_the_end(
    site: MemorySite, queue: Queue, slide: Slide
) -> None:
    delivery = deliver(queue, slide, results=2)
    site.gateway.fail_next("set_global_property")
    assert delivery.complete() == 503
    assert not others(site, slide)
    assert delivery.complete() == 200
    assert site.gateway.get_global_property(UNPUBLISHED) == "{}"


def test_series_that_are_listed_stay_listed_beside_those_of_further_results(site: MemorySite) -> None:
    def with_result(request_id: str, *uids: str) -> AnalysisRequest:
        outputs = tuple(Output("SR", uid, f"{uid}.1") for uid in uids)
        return a_request(request_id=request_id, study_instance_uid="1", outputs=outputs)

    unpublished = Unpublished(site.gateway, UNPUBLISHED, site.warnings.append)
    for request in (
        with_result("a", "1.1"),
        with_result("b", "1.2"),
        with_result("a", "1.3"),
        with_result("c"),
    ):
        unpublished.add(request)
    unpublished = Unpublished(site.gateway, UNPUBLISHED, site.warnings.append)
    assert unpublished.requests() == ("a", "b")
    assert unpublished.of("a") == Stored("1", ("1.1", "1.3"))


def test_publishing_that_was_interrupted_by_the_end_of_the_process_keeps_its_results(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide, results=2)
    before_the_end_is_written(site, monkeypatch, fail)
    assert delivery.complete() == 503
    stored = others(site, slide)
    site.restart(kill=True)
    site.pass_time(10)
    assert queue.status(delivery.request_id) == "completed"
    assert others(site, slide) == stored


def test_nothing_is_deleted_for_a_request_that_could_not_be_read_yet(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide)
    before_the_end_is_written(site, monkeypatch, fail)
    assert delivery.complete() == 503
    stored = others(site, slide)
    for _ in range(2):  # the open series first, then all of them
        site.gateway.fail_next("get_metadata")
    site.restart(kill=True)
    assert site.application.core.ready.unread
    assert others(site, slide) == stored


def test_a_damaged_list_of_unfinished_results_is_reported(
    site: MemorySite, queue: Queue, slide: Slide
) -> None:
    site.gateway.set_global_property(UNPUBLISHED, '{"r": 5}')
    site.restart(kill=True)
    assert "Global property 5002 is damaged" in site.warnings[-1]
    assert deliver(queue, slide).complete() == 200


def test_what_could_not_be_deleted_of_a_withdrawn_result_is_deleted_later(
    site: MemorySite, queue: Queue, slide: Slide
) -> None:
    delivery = deliver(queue, slide)
    delivery.complete()
    site.gateway.fail_next("delete_series")
    assert queue.decide(delivery.request_id, "withdraw", reason="wrong slide").status == 200
    assert others(site, slide)
    site.pass_time(10)
    assert not others(site, slide)


@pytest.mark.parametrize("is_heard_of", [True, False])
def test_a_withdrawn_result_that_could_not_be_deleted_goes_after_its_slide_as_well(
    site: MemorySite, queue: Queue, slide: Slide, is_heard_of: bool
) -> None:
    delivery = deliver(queue, slide)
    delivery.complete()
    site.gateway.fail_next("delete_series")
    queue.decide(delivery.request_id, "withdraw", reason="wrong slide")
    site.gateway.delete_series(slide.series)
    if is_heard_of:
        series_deleted(site.application.core, slide.series)
    site.restart(kill=True)
    site.pass_time(10)
    assert not others(site, slide)


def leave_listed(site: MemorySite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next result that is completed stay on the list of those that are not."""
    remove = site.application.core.unpublished.remove

    def fail_once(request_id: str) -> None:
        monkeypatch.setattr(site.application.core.unpublished, "remove", remove)
        fail()

    monkeypatch.setattr(site.application.core.unpublished, "remove", fail_once)


def bring_back(site: MemorySite, slide: Slide) -> None:
    site.gateway.add_slide(slide.series_uid, slide.study_uid)
    with suppress(StorageError):
        series_created(site.application.core, slide.series)


@pytest.mark.parametrize("is_written_late", [False, True])
def test_a_completed_result_that_is_still_listed_stays_where_its_slide_comes_back(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch, is_written_late: bool
) -> None:
    leave_listed(site, monkeypatch)
    delivery = deliver(queue, slide)
    assert delivery.complete() == 200
    site.delete(slide)
    if is_written_late:
        site.gateway.fail_next("instances")
        site.gateway.fail_next("instances")
        bring_back(site, slide)
    site.pass_time(5)
    if not is_written_late:
        bring_back(site, slide)
    site.pass_time(10)
    assert queue.status(delivery.request_id) == "completed"
    assert len(others(site, slide)) == 1


def test_a_withdrawal_that_fails_because_the_slide_goes_leaves_the_result_where_that_comes_back(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide)
    delivery.complete()
    enter = site.application.core.unpublished.add

    def enter_as_the_slide_goes(request: AnalysisRequest) -> None:
        enter(request)
        site.gateway.delete_series(slide.series)

    monkeypatch.setattr(site.application.core.unpublished, "add", enter_as_the_slide_goes)
    assert queue.decide(delivery.request_id, "withdraw", reason="wrong slide").status == 410
    series_deleted(site.application.core, slide.series)
    site.pass_time(5)
    bring_back(site, slide)
    assert queue.status(delivery.request_id) == "completed"
    assert len(others(site, slide)) == 1


def test_a_look_at_what_is_left_does_not_take_a_withdrawal_for_a_result_that_stays(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide)
    delivery.complete()
    core = site.application.core
    enter = core.unpublished.add

    def enter_before_a_look(request: AnalysisRequest) -> None:
        enter(request)
        finish_leftovers(core)

    monkeypatch.setattr(core.unpublished, "add", enter_before_a_look)
    site.gateway.fail_next("delete_series")
    assert queue.decide(delivery.request_id, "withdraw", reason="wrong slide").status == 200
    site.gateway.delete_series(slide.series)
    site.restart(kill=True)
    site.pass_time(10)
    assert not others(site, slide)


def test_a_withdrawn_result_is_deleted_by_one_at_a_time(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide)
    delivery.complete()
    delete, deleted = site.gateway.delete_series, []

    def delete_after_a_look(series_id: str) -> None:
        deleted.append(series_id)
        if len(deleted) == 1:
            finish_leftovers(site.application.core)
            answer = queue.decide(delivery.request_id, "withdraw", reason="twice")
            assert (answer.status, answer.json["code"]) == (503, "too_busy")
        delete(series_id)

    monkeypatch.setattr(site.gateway, "delete_series", delete_after_a_look)
    assert queue.decide(delivery.request_id, "withdraw", reason="wrong slide").status == 200
    assert len(deleted) == 1
    assert site.warnings == []


def test_a_look_at_what_is_left_says_nothing_of_a_result_that_is_being_stored(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide)
    store = site.gateway.store_instance

    def store_after_a_look(content: bytes) -> str:
        finish_leftovers(site.application.core)
        return store(content)

    monkeypatch.setattr(site.gateway, "store_instance", store_after_a_look)
    assert delivery.complete() == 200
    assert site.warnings == []


def test_nothing_is_withdrawn_that_could_not_be_entered(site: MemorySite, queue: Queue, slide: Slide) -> None:
    delivery = deliver(queue, slide)
    delivery.complete()
    site.gateway.fail_next("set_global_property")
    assert queue.decide(delivery.request_id, "withdraw", reason="wrong slide").status == 503
    assert queue.status(delivery.request_id) == "completed"
    site.pass_time(10)
    assert others(site, slide)


def test_a_result_that_orthanc_refuses_does_not_keep_the_others(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide, results=2)
    stored = site.gateway.store_instance
    seen: list[bytes] = []

    def store_instance(content: bytes) -> str:
        seen.append(content)
        if len(seen) == 1:
            raise FileRefusedError("Orthanc could not take POST /instances: Bad file format.")
        return stored(content)

    monkeypatch.setattr(site.gateway, "store_instance", store_instance)
    assert delivery.complete() == 200
    request = queue.get(delivery.request_id)
    assert request["status"] == "completed"
    assert "dicom_results_refused" in request["flags"]
    assert request["history"][-1]["detail"].startswith("result-0.dcm: Orthanc could not take")
    assert {item["series"] for item in request["dicom"]} == others(site, slide)
    assert any("result-0.dcm" in line for line in site.warnings)


@pytest.mark.parametrize("member", ["study_id", "series_instance_uid", "sop_instance_uid"])
def test_a_result_that_orthanc_would_put_elsewhere_than_it_said_is_not_stored(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """Where a result is withdrawn its series is deleted: it must not be that of a slide."""
    delivery, filed_as = deliver(queue, slide), site.gateway.filed_as
    monkeypatch.setattr(
        site.gateway, "filed_as", lambda content: replace(filed_as(content), **{member: "another"})
    )
    assert delivery.complete() == 200
    assert "dicom_results_refused" in queue.get(delivery.request_id)["flags"]
    assert others(site, slide) == set()


def test_a_result_that_cannot_be_found_once_it_is_stored_is_not_said_to_have_arrived(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the id of its series nothing could delete it."""
    delivery = deliver(queue, slide)
    monkeypatch.setattr(site.gateway, "parent_series", lambda _: None)
    assert delivery.complete() == 503
    assert queue.status(delivery.request_id) == "publishing"
    monkeypatch.undo()
    site.pass_time(10)
    assert {item["series"] for item in queue.get(delivery.request_id)["dicom"]} == others(site, slide)


def test_an_orthanc_that_cannot_store_is_waited_for_but_not_for_ever(
    site: MemorySite, queue: Queue, slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = deliver(queue, slide)

    def store_instance(_content: bytes) -> str:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(site.gateway, "store_instance", store_instance)
    assert delivery.complete() == 503
    site.pass_time(DAY_S - 60)
    assert queue.status(delivery.request_id) == "publishing"
    site.pass_time(120)
    request = queue.get(delivery.request_id)
    assert request["status"] == "completed"
    assert "dicom_results_refused" in request["flags"]
    assert request["history"][-1]["detail"] == "result-0.dcm: The disk is full."


def clock_runs_ahead(site: MemorySite) -> None:
    site.clock.shift(3 * DAY_S)


def orthanc_is_off_for_days(site: MemorySite) -> None:
    site.clock.advance(3 * DAY_S)
    site.gateway.fail_next("store_instance")
    site.restart(kill=True)


@pytest.mark.parametrize("meanwhile", [clock_runs_ahead, orthanc_is_off_for_days])
def test_a_result_is_not_given_up_at_one_failure_after_days_in_which_nobody_tried(
    site: MemorySite, queue: Queue, slide: Slide, meanwhile: Callable[[MemorySite], None]
) -> None:
    delivery = deliver(queue, slide)
    site.gateway.fail_next("store_instance")
    assert delivery.complete() == 503
    meanwhile(site)
    site.gateway.fail_next("store_instance")
    site.pass_time(10)
    assert queue.status(delivery.request_id) == "publishing"
    site.pass_time(10)
    request = queue.get(delivery.request_id)
    assert (request["status"], len(request["dicom"])) == ("completed", 1)
    assert "dicom_results_refused" not in request["flags"]


def test_a_second_delivery_has_the_whole_time_again(site: MemorySite, queue: Queue, slide: Slide) -> None:
    delivery = deliver(queue, slide)
    site.gateway.fail_next("store_instance")
    assert delivery.complete() == 503
    site.overwrite(slide)
    site.pass_time(2 * DAY_S)
    again = queue.claim()
    site.gateway.fail_next("store_instance")
    assert Delivery(again, tiny_result(slide.study_uid)).complete() == 503
    assert queue.status(delivery.request_id) == "publishing"
