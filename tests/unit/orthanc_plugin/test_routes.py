# SPDX-License-Identifier: AGPL-3.0-or-later
"""The router, the roles in front of it, and what the site's settings make of the answers."""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

import pytest

from orthanc_plugin.application import Application
from orthanc_plugin.errors import ApiError
from orthanc_plugin.gateway import SeriesInfo
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.http import Request, Response
from orthanc_plugin.presentation.list_filter import parse_filter
from orthanc_plugin.routes.router import Route, Router
from orthanc_plugin.service.changes import note_arrival, series_stable
from orthanc_plugin.service.report import holds_lease_on
from tests.support.fake_clock import FakeClock
from tests.support.queue_client import PNG, Queue, named
from tests.support.sites import PERSON, WORKER, MemorySite, RecordingAudit, Slide, settings_of


def answering(text: str) -> Any:
    return lambda request, parts: Response(200, f"{text} {dict(parts)}".encode())


ROUTER = Router(
    (
        Route("GET", "/things", answering("all")),
        Route("GET", "/things/{name}", answering("one")),
        Route("POST", "/things/{name}", answering("made")),
        Route("GET", "/app/{path*}", answering("page")),
    )
)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/pathology/things", "all {}"),
        ("/pathology/things/", "all {}"),
        ("/api/pathology/things", "all {}"),
        ("/pathology//things", "all {}"),
        ("/pathology/things/a.b", "one {'name': 'a.b'}"),
        ("/pathology/app/vendor/x.js", "page {'path': 'vendor/x.js'}"),
    ],
)
def test_a_path_finds_its_route(path: str, answer: str) -> None:
    assert ROUTER.dispatch(Request("GET", path)).body == answer.encode()


@pytest.mark.parametrize("path", ["/pathology", "/pathology/", "/pathology/thing", "/pathology/things/a/b"])
def test_another_path_is_a_404(path: str) -> None:
    with pytest.raises(ApiError) as caught:
        ROUTER.dispatch(Request("GET", path))
    assert caught.value.status == 404


@pytest.mark.parametrize("proxy", ["", "/behind/a/proxy"])
@pytest.mark.parametrize("address", ["/pathology", "/pathology/", "/api/pathology", "/api/pathology/"])
def test_a_browser_at_the_root_is_led_to_the_worklist(proxy: str, address: str) -> None:
    site, there = MemorySite(), proxy + address
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    while (answer := site.call("GET", there.removeprefix(proxy), headers=browser)).status == 302:
        there = urljoin(there, answer.headers["location"])
    assert there == f"{proxy}{address.rstrip('/')}/app/worklist.html"
    assert answer.status == 200


@pytest.mark.parametrize("headers", [{}, {"Accept": "*/*"}, {"Accept": "application/json"}])
def test_a_program_at_the_root_is_told_that_nothing_lies_there(headers: dict[str, str]) -> None:
    answer = MemorySite().call("GET", "/pathology/", headers=headers)
    assert (answer.status, answer.json["code"]) == (404, "unknown_route")


def test_another_method_is_a_405_that_names_the_right_ones() -> None:
    with pytest.raises(ApiError) as caught:
        ROUTER.dispatch(Request("PUT", "/pathology/things/a"))
    assert caught.value.headers == {"Allow": "GET, POST"}


@pytest.mark.parametrize(
    ("user", "method", "route"),
    [
        (PERSON, "POST", "analyze"),
        (PERSON, "GET", "requests"),
        (PERSON, "GET", "requests/0"),
        (PERSON, "GET", "requests/0/artifacts/heatmap.png"),
        (PERSON, "GET", "requests/0/export/csv"),
        (PERSON, "POST", "requests/0/cancel"),
        (PERSON, "POST", "requests/0/retry"),
        (PERSON, "POST", "workers/lab/drain"),
        (WORKER, "GET", "pending-requests"),
        (WORKER, "POST", "claim"),
        (WORKER, "POST", "update-status/0"),
        (WORKER, "POST", "complete-request/0"),
        (WORKER, "PUT", "requests/0/artifacts/heatmap.png"),
    ],
)
def test_until_the_requests_are_read_everything_waits(user: str, method: str, route: str) -> None:
    application = Application(settings_of(), MemoryGateway(), FakeClock(), RecordingAudit(), print)
    headers = {"content-type": "application/json"}
    answer = application.handle(
        Request(method, f"/pathology/{route}", headers=headers, body=b"{}", user=user)
    )
    assert (answer.status, answer.headers.get("Retry-After")) == (503, "1")
    assert b'"starting"' in answer.body
    assert application.handle(Request("GET", "/pathology/health", user=user)).status == 200


def test_a_failing_orthanc_is_a_503_with_a_sentence() -> None:
    site = MemorySite()
    slide = site.new_slide()
    site.gateway.fail_next("series")
    answer = Queue(site).submit(slide)
    assert (answer.status, answer.json["code"]) == (503, "storage_unavailable")


def test_only_permitted_models_are_submitted_and_claimed() -> None:
    site = MemorySite({"Models": [{"Name": "good", "Sha256": "a" * 64, "Default": True}, {"Name": "b"}]})
    slide = site.new_slide()
    refused = Queue(site, "bad").submit(slide)
    assert (refused.status, refused.json["code"]) == (422, "unknown_model")
    assert "good" in refused.json["error"]

    answer = site.call("POST", "/pathology/analyze", body={"series": slide.series})
    assert answer.json["request"]["model"] == "good"
    queue = Queue(site, "good")
    assert queue.try_claim().status == 204
    model = {"name": "good", "version": "1", "sha256": "a" * 64}
    lease = queue.claim(models=[model])
    assert lease.complete().json["request"]["flags"] == []


def test_a_result_stands_for_who_asks_for_the_model_that_it_turned_out_to_be() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    asked_for_any = queue.submitted(slide, model=None)
    lease = queue.claim(default_model=queue.model)
    assert (lease.request_id, lease.complete().status) == (asked_for_any, 200)
    for wish in ({}, {"model_version": "1"}):
        again = queue.submit(slide, **wish)
        assert (again.status, again.json["request_id"]) == (200, asked_for_any)
    assert queue.submit(slide, model_version="2").status == 201
    assert queue.submit(slide, parameters={"a": 1}).status == 201


def test_what_the_site_does_not_permit_any_more_is_not_retried() -> None:
    site = MemorySite()
    queue = Queue(site, "old")
    request_id = queue.submitted()
    queue.decide(request_id, "cancel")
    site.settings = settings_of({"Models": [{"Name": "new"}]})
    site.restart()
    answer = queue.decide(request_id, "retry")
    assert (answer.status, answer.json["code"]) == (422, "unknown_model")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, "usual"),
        ({"model": "first"}, "first"),
        ({"model": "first", "model_version": "1"}, "first"),
        ({"model": "first", "model_version": "2"}, None),
        ({"model": "usual", "model_version": "2"}, "usual"),
        ({"model": "off"}, None),
    ],
)
def test_a_site_has_its_default_and_permits_what_it_names(
    asked: dict[str, Any], expected: str | None
) -> None:
    models = [{"Name": "first", "Version": "1"}, {"Name": "off", "Enabled": False}]
    site = MemorySite({"Models": [*models, {"Name": "usual", "Default": True}]})
    answer = site.call("POST", "/pathology/analyze", body={"series": site.new_slide().series, **asked})
    if expected is None:
        assert (answer.status, answer.json["code"]) == (422, "unknown_model")
        assert "it permits: first, usual." in answer.json["error"]
    else:
        assert answer.json["request"]["model"] == expected


@pytest.mark.parametrize("since", ["2026-11-22T16:54:03", "2026-11-22T17:54:03+01:00"])
def test_a_time_without_a_zone_is_utc(since: str) -> None:
    assert parse_filter({"since": since}) == parse_filter({"since": "2026-11-22T16:54:03Z"})


def test_a_list_may_be_asked_for_a_single_request_and_no_digits_are_too_many_to_be_refused() -> None:
    assert parse_filter({"limit": "1"}).limit == 1
    with pytest.raises(ApiError, match="limit must be a whole number"):
        parse_filter({"limit": "9" * 5000})


def test_a_site_without_a_default_leaves_the_model_to_the_worker() -> None:
    site = MemorySite({"Models": [{"Name": "first", "Version": "1"}]})
    answer = site.call("POST", "/pathology/analyze", body={"series": site.new_slide().series})
    assert (answer.status, answer.json["request"]["model"]) == (201, None)


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_worker_may_read_a_slide_from_its_claim_on_until_it_can_bring_nothing_more(attempts: int) -> None:
    site = MemorySite({"MaxAttempts": attempts})
    core, queue, slide = site.application.core, Queue(site), site.new_slide()

    def may_read(user: str = WORKER) -> bool:
        (file,) = site.gateway.instances(slide.series)
        reads = {holds_lease_on(core, user, orthanc_id) for orthanc_id in (slide.series, file.instance_id)}
        (answer,) = reads
        return answer

    assert not may_read()
    queue.submitted(slide)
    assert not may_read()
    queue.claim().hand_back()
    assert not may_read()
    queue.claim().heartbeat()
    assert may_read()
    assert not may_read("another lab's worker")
    site.pass_time(600)
    assert may_read() is (attempts > 1)


def test_a_result_of_a_model_nobody_approved_says_so() -> None:
    queue = Queue(MemorySite())
    queue.submitted()
    assert queue.claim().complete().json["request"]["flags"] == ["unapproved_model"]


def test_a_failed_attempt_goes_to_another_worker_first() -> None:
    site = MemorySite()
    queue = Queue(site)
    assert queue.try_claim("other").status == 204
    queue.submitted()
    queue.claim("first").fail()
    site.pass_time(1)
    assert queue.try_claim("first").status == 204
    assert queue.try_claim("other").status == 200


def test_a_failed_attempt_waits_for_another_worker_half_a_minute_and_no_longer() -> None:
    site = MemorySite()
    queue = Queue(site)
    assert queue.try_claim("other").status == 204
    queue.submitted()
    queue.claim("first").fail()
    site.pass_time(30)
    assert queue.try_claim("first").status == 204
    site.pass_time(1)
    assert queue.try_claim("first").status == 200


def test_who_handed_a_slide_back_may_have_it_again_though_others_are_there() -> None:
    queue = Queue(MemorySite())
    assert queue.try_claim("other").status == 204
    queue.submitted()
    queue.claim("first").hand_back()
    assert queue.try_claim("first").status == 200


def test_a_worker_that_is_alone_gets_its_failed_attempt_again() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    queue.claim("first").fail()
    site.pass_time(1)
    assert queue.try_claim("first").status == 200


def test_a_failed_attempt_does_not_wait_for_a_worker_that_would_not_take_it() -> None:
    site = MemorySite()
    queue = Queue(site)
    assert queue.try_claim("other").status == 204  # without a default model
    queue.submitted(model=None)
    queue.claim("first", default_model=queue.model).fail()
    site.pass_time(1)
    assert queue.try_claim("first", default_model=queue.model).status == 200


def test_of_two_slides_with_one_uid_neither_is_guessed() -> None:
    site = MemorySite()
    one = site.gateway.add_slide("1.2.9", "1.2", patient_id="a")
    other = site.gateway.add_slide("1.2.9", "1.3", patient_id="b")
    answer = site.call("POST", "/pathology/analyze", body={"series_instance_uid": "1.2.9"})
    assert (answer.status, answer.json["code"]) == (409, "ambiguous_series")
    assert set(answer.json["candidates"]) == {one, other}
    both = {"series_instance_uid": "1.2.9", "study_instance_uid": "1.3"}
    assert site.call("POST", "/pathology/analyze", body=both).json["request"]["series"] == other


def test_a_series_still_arriving_is_accepted_and_claimed_when_it_is_complete() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    site.gateway.set_stable(slide.series, is_stable=False)
    request_id = queue.submitted(slide)
    assert queue.get(request_id)["waits_for"] == "slide"
    assert queue.try_claim().status == 204
    site.gateway.add_instance(slide.series, "9.9.9")
    site.gateway.set_stable(slide.series, is_stable=True)
    site.pass_time(1.1)
    lease = queue.claim()
    assert lease.request_id == request_id
    assert queue.get(request_id)["waits_for"] is None
    assert len(lease.claimed["instances"]) == 2
    assert lease.complete().status == 200


def test_a_slide_submitted_while_it_arrives_and_again_when_it_is_complete_is_analysed_once() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    site.gateway.set_stable(slide.series, is_stable=False)
    request_id = queue.submitted(slide)
    site.gateway.add_instance(slide.series, "9.9.9")
    site.gateway.set_stable(slide.series, is_stable=True)
    again = queue.submit(slide)
    assert (again.status, again.json["request_id"]) == (200, request_id)


def test_a_study_that_is_too_large_is_refused_as_a_whole() -> None:
    site = MemorySite()
    slides = [site.new_slide() for _ in range(1001)]
    body = {"study": known_series(site, slides[0]).study_id, "model": "m"}
    answer = site.call("POST", "/pathology/analyze", body=body)
    assert (answer.status, answer.json["code"]) == (413, "cohort_too_large")
    assert site.application.core.index.snapshot() == []

    site.delete(slides.pop())
    assert site.call("POST", "/pathology/analyze", body=body).json["summary"]["created"] == 1000


def test_whoever_waits_learns_that_the_slide_is_complete() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    site.gateway.set_stable(slide.series, is_stable=False)
    request_id = queue.submitted(slide)
    before = queue.get(request_id)
    held = {"wait": "20", "version": before["version"]}
    answers: list[dict[str, Any]] = []

    def wait() -> None:
        answer = site.call("GET", f"/pathology/requests/{request_id}", query=held)
        answers.append(answer.json["request"])

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not site.application.core.pages.waiting:
        time.sleep(0.01)
    site.gateway.set_stable(slide.series, is_stable=True)
    series_stable(site.application.core, slide.series)
    waiting.join(5)
    assert (before["waits_for"], answers[0]["waits_for"]) == ("slide", "worker")


def test_a_slide_that_was_complete_before_its_arrival_was_noted_is_not_waited_for() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    request_id = queue.submitted(slide)
    arriving = replace(known_series(site, slide), is_stable=False)
    note_arrival(site.application.core, arriving)
    assert queue.get(request_id)["waits_for"] == "worker"


def test_more_of_a_slide_may_come_after_its_request() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    request_id = queue.submitted(slide)
    assert queue.get(request_id)["waits_for"] == "worker"
    site.gateway.set_stable(slide.series, is_stable=False)
    assert queue.try_claim().status == 204
    assert queue.get(request_id)["waits_for"] == "slide"


def test_a_request_that_is_tried_again_later_waits_for_that() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    queue.claim().fail()
    assert queue.get(request_id)["waits_for"] == "retry"
    site.pass_time(60)
    assert queue.get(request_id)["waits_for"] == "worker"


def test_a_request_that_waits_says_why_for_as_long_as_it_does() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    version = queue.get(request_id)["version"]
    assert [note["code"] for note in queue.get(request_id)["notes"]] == ["no_worker"]
    assert queue.try_claim(models=[{"name": "another"}]).status == 204
    for shown in (queue.get(request_id), *site.call("GET", "/pathology/requests/").json["requests"]):
        assert [(note["code"], note["offered"]) for note in shown["notes"]] == [
            ("model_not_offered", ["another"])
        ]
    assert queue.get(request_id)["version"] == version
    assert queue.claim().claimed["request"]["notes"] == []


def notes_of(queue: Queue, request_id: str) -> list[tuple[str, list[str]]]:
    return [(note["code"], note["offered"]) for note in queue.get(request_id)["notes"]]


def test_a_request_waits_for_a_drain_to_end_where_every_living_worker_is_drained() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.try_claim("lab-1")
    site.call("POST", "/pathology/workers/lab-1/drain", body={})
    request_id = queue.submitted()
    assert notes_of(queue, request_id) == [("all_drained", [])]
    site.pass_time(91)
    assert notes_of(queue, request_id) == [("no_worker", [])]


def test_a_request_without_a_model_waits_for_a_worker_with_a_default_one() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted(model=None)
    queue.try_claim(models=[{"name": "a"}, {"name": "b"}], default_model=None)
    assert notes_of(queue, request_id) == [("no_default_model", ["a", "b"])]


def test_nothing_is_said_of_what_waits_while_an_older_worker_may_take_it() -> None:
    site = MemorySite()
    queue = Queue(site)
    begun, waiting = queue.submitted(), queue.submitted()
    path = f"/pathology/update-status/{begun}/"
    site.call("POST", path, user=WORKER, body={"status": "processing", "worker_id": "old-1"})
    assert notes_of(queue, waiting) == []


@pytest.mark.parametrize(("allowed", "codes"), [(True, []), (None, ["no_worker"])])
def test_an_older_worker_that_only_looks_for_work_may_take_it_where_the_site_lets_it(
    allowed: bool | None, codes: list[str]
) -> None:
    site = MemorySite({"AllowTokenless": allowed})
    queue = Queue(site)
    request_id = queue.submitted()
    site.call("GET", "/pathology/pending-requests/", user=WORKER)
    assert [code for code, _ in notes_of(queue, request_id)] == codes
    site.pass_time(91)
    assert [code for code, _ in notes_of(queue, request_id)] == ["no_worker"]


def test_a_drained_worker_counts_as_alive_to_a_monitor() -> None:
    site = MemorySite()
    Queue(site).try_claim("lab-1")
    site.call("POST", "/pathology/workers/lab-1/drain", body={})
    assert site.call("GET", "/pathology/health").json["workers_alive"] == 1
    Queue(site).try_claim("lab-1", leaving=True)
    assert site.call("GET", "/pathology/health").json["workers_alive"] == 0


def test_nothing_is_said_of_what_waits_while_a_worker_is_known_by_its_lease_alone() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    lease = queue.claim()
    waiting = queue.submitted(model="another")
    site.restart()
    lease.heartbeat()
    assert notes_of(queue, waiting) == []
    queue.try_claim(lease.worker_id)
    assert [code for code, _ in notes_of(queue, waiting)] == ["model_not_offered"]


def test_that_two_workers_have_one_name_is_logged_once() -> None:
    site = MemorySite()
    queue = Queue(site)
    for process in "abab":
        queue.try_claim("lab-1", process=process)
    assert [warning for warning in site.warnings if "lab-1" in warning] == site.warnings
    assert len(site.warnings) == 1
    site.pass_time(91)
    queue.try_claim("lab-1", process="b")
    assert site.call("GET", "/pathology/workers").json["workers"][0]["shared_name"] is False


def only_worker(site: MemorySite) -> dict[str, Any]:
    (worker,) = site.call("GET", "/pathology/workers").json["workers"]
    assert isinstance(worker, dict)
    return worker


@pytest.mark.parametrize("turns", ["abca", "abcdea"])
def test_that_more_workers_than_two_have_one_name_is_told_as_well(turns: str) -> None:
    site = MemorySite()
    for process in turns:
        Queue(site).try_claim("lab-1", process=process)
    assert only_worker(site)["shared_name"] is True


def test_a_worker_that_was_started_anew_lives_on_when_the_one_before_says_goodbye() -> None:
    site = MemorySite()
    queue = Queue(site)
    for process in "ab":
        queue.try_claim("lab-1", process=process)
    queue.try_claim("lab-1", process="a", leaving=True)
    assert only_worker(site)["alive"] is True
    request_id = queue.submitted()
    assert notes_of(queue, request_id) == []
    queue.try_claim("lab-1", process="b", leaving=True)
    assert only_worker(site)["alive"] is False
    assert notes_of(queue, request_id) == [("no_worker", [])]


def test_a_goodbye_in_the_name_of_another_users_worker_is_not_believed() -> None:
    """After a restart a worker at a slide is known by its lease, which does not tell its process."""
    site = MemorySite({"Workers": [WORKER, "other"]})
    queue = Queue(site)
    queue.submitted()
    lease = queue.claim("lab-1", process="a")
    site.restart()
    lease.heartbeat()
    goodbye = {"worker_id": "lab-1", "token": "0" * 32, "models": [], "leaving": True}
    assert site.call("POST", "/pathology/claim", user="other", body=goodbye).status == 204
    assert only_worker(site)["alive"] is True
    queue.try_claim("lab-1", process="a", leaving=True)
    assert only_worker(site)["alive"] is False


def test_a_model_that_the_site_does_not_permit_is_no_offer() -> None:
    site = MemorySite({"Models": [{"Name": "approved", "Sha256": "1" * 64}]})
    queue = Queue(site, model="approved")
    request_id = queue.submitted()
    assert queue.try_claim(models=[{"name": "approved", "sha256": "2" * 64}]).status == 204
    assert [note["code"] for note in queue.get(request_id)["notes"]] == ["model_not_offered"]


def known_series(site: MemorySite, slide: Slide) -> SeriesInfo:
    series = site.gateway.series(slide.series)
    assert series is not None
    return series


def test_whoever_waits_for_work_learns_of_a_request_that_becomes_due() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    queue.claim().fail()
    found: list[str] = []

    def wait() -> None:
        answer = site.call("GET", "/pathology/pending-requests/", user=WORKER, query={"wait": "20"})
        found.extend(request["request_id"] for request in answer.json["requests"])

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not site.application.core.pages.waiting:
        time.sleep(0.01)
    site.pass_time(60)
    waiting.join(5)
    assert found == [request_id]


def test_what_can_no_longer_be_analysed_at_the_claim_fails_with_its_reason() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    request_id = queue.submitted(slide)
    site.gateway.delete_series(slide.series)
    site.gateway.add_slide(slide.series_uid, slide.study_uid, sop_class_uid="1.2.840.10008.5.1.4.1.1.2")
    assert queue.try_claim().status == 204
    request = queue.get(request_id)
    assert (request["status"], request["error"]["code"]) == ("failed", "not_a_slide")


def test_a_slide_whose_files_could_not_be_seen_at_the_claim_keeps_its_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    with monkeypatch.context() as patch:
        patch.setattr(site.gateway, "instances", lambda _: ())
        assert queue.try_claim().status == 204
    assert queue.status(request_id) == "pending"
    site.pass_time(3)
    assert queue.claim().request_id == request_id


def test_a_deleted_series_is_found_out_at_the_claim() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    request_id = queue.submitted(slide)
    site.gateway.delete_series(slide.series)
    assert queue.try_claim().status == 204
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 410


def test_who_did_what_is_in_the_audit_and_no_token_is() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    lease = queue.claim()
    lease.put("heatmap.png", PNG)
    lease.complete(named("heatmap.png", PNG))
    queue.decide(lease.request_id, "withdraw", reason="wrong slide")
    site.call("POST", "/pathology/analyze", user=WORKER, body={})
    events = [(event.event, event.by) for event, _ in site.audit.events]
    assert events == [
        ("submitted", PERSON),
        ("claimed", lease.worker_id),
        ("delivered", lease.worker_id),
        ("completed", ""),
        ("withdrawn", PERSON),
        ("refused", WORKER),
    ]
    assert lease.token not in repr(site.audit.events)


def test_the_audit_tells_a_worker_that_calls_itself_after_a_person_from_that_person() -> None:
    site = MemorySite({"Workers": [WORKER, "other"]})
    queue = Queue(site)
    queue.submitted()
    lease = queue.claim(PERSON)
    lease.complete()
    queue.submitted()
    queue.claim().hand_back()
    site.clock.advance(60)
    assert site.call("POST", "/pathology/claim", body={}).status == 403
    found = [
        (event.event, event.by, user)
        for (event, _), user in zip(site.audit.events, site.audit.users, strict=True)
    ]
    assert found == [
        ("submitted", PERSON, PERSON),
        ("claimed", PERSON, WORKER),
        ("delivered", PERSON, WORKER),
        ("completed", "", WORKER),
        ("submitted", PERSON, PERSON),
        ("claimed", f"{queue.model}-a", WORKER),
        ("handed_back", f"{queue.model}-a", WORKER),
        ("refused", PERSON, PERSON),
    ]


def test_nobody_was_signed_in_where_the_plugin_acted_by_itself() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    site.pass_time(60)
    event, _ = site.audit.events[-1]
    assert (event.event, event.by, site.audit.users[-1]) == ("requeued", lease.worker_id, "")


def test_a_drain_is_in_the_audit() -> None:
    site = MemorySite()
    Queue(site).try_claim("lab-1")
    for body in ({}, {"drain": False}):
        assert site.call("POST", "/pathology/workers/lab-1/drain", body=body).status == 200
    found = [(event.event, event.by, event.detail) for event, _ in site.audit.events]
    assert found == [("drained", PERSON, "lab-1"), ("drain_ended", PERSON, "lab-1")]


def test_a_deletion_and_a_cancel_are_in_the_audit() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    cancelled, deleted = queue.submitted(), queue.submitted(slide)
    queue.decide(cancelled, "cancel")
    site.delete(slide)
    found = [(event.event, event.by, request_id) for event, request_id in site.audit.events[2:]]
    assert found == [("cancelled", PERSON, cancelled), ("source_deleted", "", deleted)]


def test_every_refusal_of_what_a_lost_lease_brings_is_in_the_audit() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    first = queue.claim()
    first.hand_back()
    second = queue.claim("second")
    assert second.complete().status == 200
    before = len(site.audit.events)
    assert first.heartbeat().status == first.complete().status == 409
    assert second.fail().json["code"] == "already_completed"
    path = f"/pathology/%s/{first.request_id}/"
    assert [(event.event, event.by, event.detail) for event, _ in site.audit.events[before:]] == [
        ("refused", WORKER, f"POST {path % 'update-status'}: lease_lost"),
        ("refused", WORKER, f"POST {path % 'complete-request'}: lease_lost"),
        ("refused", WORKER, f"POST {path % 'complete-request'}: already_completed"),
    ]


def test_a_user_who_is_named_by_another_machine_than_the_proxys_is_refused_and_noted() -> None:
    site = MemorySite({"TrustedUserHeader": "X-Remote-User"})
    assert not site.application.allows("DELETE", "/series/x", "10.0.0.9", {"x-remote-user": PERSON})
    ((event, _),) = site.audit.events
    assert (event.event, event.by) == ("refused", "")
    assert event.detail == "DELETE /series/x from 10.0.0.9: forged_user"


def test_the_model_that_runs_is_bound_at_the_claim_with_its_hash() -> None:
    queue = Queue(MemorySite())
    request_id = queue.submitted()
    assert queue.get(request_id)["model_sha256"] is None
    queue.claim(models=[{"name": queue.model, "version": "7", "sha256": "a" * 64}])
    request = queue.get(request_id)
    assert (request["model_version"], request["model_sha256"]) == ("7", "a" * 64)


def test_a_page_with_a_version_of_before_a_restart_is_answered_at_once() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    before = queue.get(request_id)["version"]
    site.restart()
    started = time.monotonic()
    query = {"wait": "20", "version": before}
    answer = site.call("GET", f"/pathology/requests/{request_id}", query=query)
    assert time.monotonic() - started < 5
    assert answer.json["request"]["version"] != before


def test_those_who_are_told_to_come_back_later_do_not_all_come_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = MemorySite()
    queue, chances = Queue(site), [0.0, 1.0]
    monkeypatch.setattr(site.clock, "jitter", lambda: chances.pop(0))
    assert [queue.try_claim().headers["retry-after"] for _ in range(2)] == ["1", "3"]


def test_a_drain_is_forgotten_neither_for_many_other_workers_nor_while_it_cannot_be_written() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    lease = queue.claim("one")
    site.gateway.fail_next("set_global_property")
    assert site.call("POST", "/pathology/workers/one/drain", body={}).status == 503
    assert lease.heartbeat().json["drain"] is False
    assert site.call("POST", "/pathology/workers/one/drain", body={}).status == 200
    for number in range(201):
        queue.try_claim(f"other-{number}")
    assert lease.heartbeat().json["drain"] is True
    assert "one" not in {worker.worker_id for worker in site.application.core.workers.alive()}


def test_a_damaged_list_of_drained_workers_is_reported_and_keeps_nothing_from_starting() -> None:
    site = MemorySite()
    for damaged in ("[", "{}", "[1]"):
        site.gateway.set_global_property(5003, damaged)
        site.restart()
        assert "5003" in site.warnings[-1]
    assert Queue(site).try_claim().status == 204


def test_the_token_is_not_stored() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    stored = site.gateway.get_metadata(slide.series, 5000)
    assert stored is not None
    assert lease.token.encode() not in stored


def test_publishing_that_was_interrupted_is_finished_at_start() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    lease = queue.claim()
    lease.put("heatmap.png", PNG)
    body = lease.body(named("heatmap.png", PNG))
    site.gateway.fail_next("put_metadata")
    assert lease.send(body).status == 503
    assert queue.status(request_id) == "processing"
    assert lease.send(body).status == 200
    site.restart()
    assert queue.status(request_id) == "completed"


def test_two_completions_at_once_do_not_wait_for_each_other() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    lease = queue.claim()
    with site.application.core.index.lock:
        site.application.core.busy.add(request_id)
    answer = lease.complete()
    assert (answer.status, answer.json["code"]) == (503, "too_busy")


def test_claims_of_many_workers_at_once_never_share_a_request() -> None:
    site = MemorySite()
    queue = Queue(site)
    for _ in range(20):
        queue.submitted()
    found: list[str] = []

    def work(worker: int) -> None:
        while (answer := queue.try_claim(f"w{worker}")).status == 200:
            found.append(answer.json["request"]["request_id"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - started < 10
    assert len(found) == len(set(found)) == 20


def test_a_slide_deleted_and_stored_again_at_once_keeps_its_requests() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    request_id = queue.submitted(slide)
    site.delete(slide)
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 410
    site.overwrite(slide)
    assert queue.get(request_id)["flags"] == ["source_replaced"]


def test_a_slide_stored_again_long_after_its_deletion_is_a_new_one() -> None:
    site = MemorySite()
    queue, slide = Queue(site), site.new_slide()
    request_id = queue.submitted(slide)
    site.delete(slide)
    site.pass_time(60)
    site.overwrite(slide)
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 410


def test_an_expiry_that_cannot_be_written_is_tried_again_a_little_later() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    queue.claim()
    site.gateway.fail_next("put_metadata")
    site.pass_time(1.1)
    site.pass_time(1.1)
    assert queue.status(request_id) == "processing"
    assert len(site.warnings) == 1
    site.pass_time(5)
    assert queue.status(request_id) == "pending"


def test_an_orthanc_that_fails_while_a_lease_is_looked_up_is_a_503() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    instance = queue.claim().claimed["instances"][0]["id"]
    site.gateway.fail_next("parent_series")
    body = {"ranges": [[0, 4]]}
    assert site.call("POST", f"/pathology/instances/{instance}/ranges", user=WORKER, body=body).status == 503


def test_orthancs_own_file_of_a_label_is_kept_from_a_worker_that_holds_the_slide() -> None:
    site = MemorySite()
    queue = Queue(site)
    label = ("ORIGINAL", "PRIMARY", "LABEL", "NONE")
    slide = site.new_slide()
    site.gateway.add_instance(slide.series, "1.2.9", image_type=label)
    queue.submitted(slide)
    files = queue.claim().claimed["instances"]
    credentials = {"authorization": "Basic " + base64.b64encode(f"{WORKER}:x".encode()).decode()}
    allowed = {
        file["image_type"][2]: site.application.allows(
            "GET", f"/instances/{file['id']}/file", "10.0.0.1", credentials
        )
        for file in files
    }
    assert allowed == {"VOLUME": True, "LABEL": False}


def test_a_path_that_only_begins_like_ours_is_judged_as_orthancs() -> None:
    credentials = {"authorization": "Basic " + base64.b64encode(f"{WORKER}:x".encode()).decode()}
    assert not MemorySite().application.allows("GET", "/pathology-other/plugin", "10.0.0.1", credentials)


def test_a_line_break_in_a_path_of_ours_is_still_answered_with_a_sentence() -> None:
    credentials = {"authorization": "Basic d29ya2VyOng="}
    path = "/pathology/requests/x/artifacts/\n"
    assert MemorySite().application.allows("PUT", path, "10.0.0.1", credentials)
