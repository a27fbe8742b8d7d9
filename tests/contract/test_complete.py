# SPDX-License-Identifier: AGPL-3.0-or-later
"""Artifacts and completion: a result is taken whole, once, from the one worker that may bring it."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.uid import generate_uid

from tests.support.queue_client import PNG, RESULT, Queue, named
from tests.support.sites import WORKER, ServerSite, Site, Slide
from tests.support.tiny_dicom import tiny_result, unreadable_result


def test_a_result_with_its_heatmap_arrives(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    answer = lease.put("heatmap.png", PNG)
    assert answer.json["artifact"] == {**named("heatmap.png", PNG), "content_type": "image/png"}

    answer = lease.complete(named("heatmap.png", PNG))
    assert answer.status == 200
    assert answer.json["request"]["status"] == "completed"

    request = queue.get(request_id)
    assert request["result"] == RESULT
    assert request["summary"] == RESULT
    assert request["attempts"] == 1
    assert [item["name"] for item in request["artifacts"]] == ["heatmap.png"]
    picture = site.call("GET", f"/pathology/requests/{request_id}/artifacts/heatmap.png")
    assert picture.body == PNG
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["x-content-type-options"] == "nosniff"
    assert picture.headers["etag"] == f'"{named("", PNG)["sha256"]}"'


def test_lists_leave_the_result_out_unless_asked(queue: Queue, site: Site) -> None:
    lease = queue.completed()
    (short,) = site.call("GET", "/pathology/requests/", query={"model": queue.model}).json["requests"]
    assert short["request_id"] == lease.request_id
    assert "result" not in short
    assert short["summary"]["predicted_class"] == "oscc"
    query = {"model": queue.model, "full": "1"}
    (full,) = site.call("GET", "/pathology/requests/", query=query).json["requests"]
    assert full["result"] == RESULT


def test_the_same_completion_again_is_the_same_answer(queue: Queue) -> None:
    queue.submitted()
    lease = queue.claim()
    body = lease.body()
    assert [lease.send(body).status for _ in range(2)] == [200, 200]


def test_a_delivery_that_is_sent_again_whole_is_taken_for_what_it_is(queue: Queue, site: Site) -> None:
    """A worker whose answer was lost begins with its artifacts, as it did the first time."""
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    report = tiny_result(slide.study_uid)
    body = lease.body(named("heatmap.png", PNG), named("sr.dcm", report))
    for _ in range(2):
        assert lease.put("heatmap.png", PNG).status == 200
        assert lease.put("sr.dcm", report, "application/dicom").status == 200
        assert lease.send(body).status == 200


def test_no_file_is_taken_after_a_completion_that_did_not_name_it(queue: Queue) -> None:
    lease = queue.completed()
    for name, content in (("heatmap.png", PNG + b"more"), ("overlay.png", PNG)):
        assert lease.put(name, content).json["code"] == "lease_lost"


def test_another_completion_after_the_first_is_refused(queue: Queue) -> None:
    lease = queue.completed()
    answer = lease.complete(result={"predicted_class": "normal"})
    assert (answer.status, answer.json["code"]) == (409, "already_completed")


def test_a_completion_after_expiry_counts_while_nobody_claimed_since(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    site.pass_time(2.1)
    assert queue.status(request_id) == "pending"
    assert lease.complete().status == 200
    assert queue.status(request_id) == "completed"


def test_a_superseded_completion_changes_nothing(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    first = queue.claim()
    site.pass_time(1.1)
    second = queue.claim("other")
    answer = first.complete()
    assert (answer.status, answer.json["code"]) == (409, "lease_lost")
    assert queue.status(request_id) == "processing"
    assert second.complete().status == 200


def test_a_retryable_error_waits_and_is_tried_again(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    answer = lease.fail("gpu_lost")
    assert answer.json["request"]["status"] == "pending"
    request = queue.get(request_id)
    assert request["error"] == {"code": "gpu_lost", "message": "It went wrong.", "retryable": True}
    assert request["attempts"] == 1
    site.pass_time(0.4)
    assert queue.claim("other").request_id == request_id


def test_the_last_attempt_fails_the_request_with_every_reason(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    for number in range(3):
        queue.claim(f"worker-{number}").fail(f"reason_{number}")
        site.pass_time(1.0)
    request = queue.get(request_id)
    assert request["status"] == "failed"
    assert [grant["error"]["code"] for grant in request["grants"]] == ["reason_0", "reason_1", "reason_2"]


@pytest.mark.parametrize("code", ["series_changed", "expired", "unconfirmed", "handed_back"])
def test_a_failure_may_be_called_what_else_becomes_of_a_lease(queue: Queue, code: str) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    error = {"code": code, "message": "It went wrong.", "retryable": True}
    body = {**lease.proof, "error": error}
    assert [lease.send(body).status for _ in range(2)] == [200, 200]
    assert lease.heartbeat().json["code"] == "lease_lost"
    request = queue.get(request_id)
    assert request["status"] == "pending"
    assert (request["grants"][-1]["outcome"], request["grants"][-1]["error"]) == ("failed", error)


def test_an_input_error_is_not_tried_again(queue: Queue) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.fail("no_tissue", retryable=False)
    request = queue.get(request_id)
    assert (request["status"], request["error"]["code"]) == ("failed", "no_tissue")


def test_the_same_error_again_is_the_same_answer(queue: Queue) -> None:
    queue.submitted()
    lease = queue.claim()
    assert [lease.fail().status for _ in range(2)] == [200, 200]


def test_an_artifact_that_did_not_arrive_as_announced_is_named(queue: Queue) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.put("heatmap.png", PNG)
    answer = lease.complete(named("heatmap.png", PNG + b"more"))
    assert (answer.status, answer.json["code"]) == (409, "artifact_mismatch")
    assert "heatmap.png" in answer.json["error"]
    assert queue.status(request_id) == "processing"


def test_an_artifact_sent_again_replaces_the_first(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.put("heatmap.png", PNG + b"first")
    lease.put("heatmap.png", PNG)
    assert lease.complete(named("heatmap.png", PNG)).status == 200
    assert site.call("GET", f"/pathology/requests/{request_id}/artifacts/heatmap.png").body == PNG


@pytest.mark.parametrize(
    ("name", "content", "content_type", "status"),
    [
        ("heatmap.svg", b"<svg/>", "image/svg+xml", 400),
        ("index.html", b"<html>", "text/html", 400),
        ("heatmap.png", b"<html>", "image/png", 415),
        ("heatmap.png", PNG, "text/html", 415),
        ("patch-001.jpg", b"\xff\xd8\xff" + b"x" * 1_100_000, "image/jpeg", 413),
    ],
)
def test_an_artifact_that_no_result_may_have_is_refused(
    queue: Queue, name: str, content: bytes, content_type: str, status: int
) -> None:
    queue.submitted()
    assert queue.claim().put(name, content, content_type).status == status


def test_artifacts_are_not_shown_before_the_result(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    queue.claim().put("heatmap.png", PNG)
    answer = site.call("GET", f"/pathology/requests/{request_id}/artifacts/heatmap.png")
    assert (answer.status, answer.json["code"]) == (404, "unknown_artifact")


def test_an_artifact_known_already_is_not_sent_again(queue: Queue, site: Site) -> None:
    lease = queue.completed()
    path = f"/pathology/requests/{lease.request_id}/artifacts/heatmap.png"
    tag = site.call("GET", path).headers["etag"]
    assert site.call("GET", path, headers={"If-None-Match": tag}).status == 304


def test_a_dicom_result_becomes_a_series_of_the_study(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    lease = queue.claim()
    content = tiny_result(slide.study_uid)
    assert lease.put("sr.dcm", content, "application/dicom").status == 200
    before = site.series_ids()
    assert lease.complete(named("sr.dcm", content)).status == 200
    (output,) = queue.get(request_id)["dicom"]
    assert output["modality"] == "SR"
    assert site.series_ids() - before == {output["series"]}


def spelt(slide: Slide, spelling: bytes) -> bytes:
    """Return a result whose series is the slide's for Orthanc, which cuts blanks and what follows a zero."""
    content, stand_in = tiny_result(slide.study_uid, series_uid="1.2.3.4"), b"\x08\x001.2.3.4\x00"
    assert content.endswith(stand_in)
    name = spelling % slide.series_uid.encode()
    name += b" " * (len(name) % 2)
    return content.removesuffix(stand_in) + len(name).to_bytes(2, "little") + name


@pytest.mark.parametrize("spelling", [b" %s", b"%s\0x"])
def test_a_dicom_result_does_not_slip_into_the_series_of_its_slide(
    queue: Queue, site: Site, spelling: bytes
) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    answer = queue.claim().put("sr.dcm", spelt(slide, spelling), "application/dicom")
    assert (answer.status, answer.json["code"]) == (415, "wrong_content_type")


@pytest.mark.server
def test_a_dicom_result_of_another_patient_is_not_stored(server_site: ServerSite) -> None:
    slide, queue = server_site.new_slide(), Queue(server_site)
    request_id = queue.submitted(slide)
    lease = queue.claim()
    content = tiny_result(slide.study_uid).replace(b"TINY-", b"MINE-")
    before = server_site.series_ids()
    assert lease.put("sr.dcm", content, "application/dicom").status == 200
    assert lease.complete(named("sr.dcm", content)).status == 200
    request = queue.get(request_id)
    assert (request["dicom"], request["flags"][-1]) == ([], "dicom_results_refused")
    assert "another patient" in request["history"][-1]["detail"]
    assert server_site.series_ids() == before


@pytest.mark.server
def test_a_dicom_result_that_orthanc_refuses_costs_nothing_but_itself(server_site: ServerSite) -> None:
    slide, queue = server_site.new_slide(), Queue(server_site)
    request_id = queue.submitted(slide)
    lease = queue.claim()
    sound, unreadable = tiny_result(slide.study_uid), unreadable_result(slide.study_uid)
    lease.put("sr.dcm", sound, "application/dicom")
    assert lease.put("roi.dcm", unreadable, "application/dicom").status == 200
    before = server_site.series_ids()
    assert lease.complete(named("roi.dcm", unreadable), named("sr.dcm", sound)).status == 200
    request = queue.get(request_id)
    assert (request["status"], request["flags"][-1]) == ("completed", "dicom_results_refused")
    assert "roi.dcm" in request["history"][-1]["detail"]
    assert {item["series"] for item in request["dicom"]} == server_site.series_ids() - before


def test_a_result_series_cannot_be_analysed(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    content = tiny_result(slide.study_uid)
    lease.put("sr.dcm", content, "application/dicom")
    (output,) = lease.complete(named("sr.dcm", content)).json["request"]["dicom"]
    answer = site.call("POST", "/pathology/analyze", body={"series": output["series"]})
    assert answer.status == 422
    assert answer.json["code"] in {"derived_series", "not_a_slide"}


def test_a_dicom_result_must_stay_in_its_study(queue: Queue, site: Site) -> None:
    queue.submitted()
    answer = queue.claim().put("sr.dcm", tiny_result("1.2.3.99"), "application/dicom")
    assert (answer.status, answer.json["code"]) == (409, "artifact_mismatch")


@pytest.mark.parametrize("of_its_slide", [True, False])
def test_a_dicom_result_must_not_join_a_series_that_is_there(
    queue: Queue, site: Site, of_its_slide: bool
) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    there = slide if of_its_slide else site.new_slide()
    content = tiny_result(slide.study_uid, series_uid=there.series_uid)
    answer = queue.claim().put("sr.dcm", content, "application/dicom")
    assert (answer.status, answer.json["code"]) == (409, "artifact_mismatch")


def test_a_result_on_another_content_is_refused_and_queued_again_uncounted(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    lease = queue.claim()
    lease.heartbeat()
    body = lease.body(fingerprint="0" * 64)
    answer = lease.send(body)
    assert (answer.status, answer.json["code"]) == (409, "series_changed")
    assert lease.send(body).json["code"] == "series_changed"
    request = queue.get(request_id)
    assert (request["status"], request["attempts"]) == ("pending", 0)


def test_a_failure_on_a_slide_that_has_changed_gives_it_again_at_once(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    lease = queue.claim()
    lease.heartbeat()
    site.overwrite(slide)
    answer = lease.fail("changed_in_mid_read")
    assert (answer.status, answer.json["code"]) == (409, "series_changed")
    site.pass_time(1.1)
    again = queue.claim(wait=10)  # until the slide is complete
    assert again.request_id == request_id
    assert again.claimed["request"]["attempts"] == 0
    again.fail("changed_in_mid_read")
    request = queue.get(request_id)
    assert (request["attempts"], request["error"]["code"]) == (1, "changed_in_mid_read")


def test_a_failure_on_a_slide_that_goes_on_changing_is_an_attempt(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    for expected in (409, 200):
        lease = queue.claim(wait=10)  # until the slide is complete
        lease.heartbeat()
        site.store_file(slide, generate_uid(), "more")
        assert lease.fail("changed_in_mid_read").status == expected
        site.pass_time(1.1)
    request = queue.get(request_id)
    assert (request["attempts"], request["error"]["code"]) == (1, "changed_in_mid_read")


def test_a_slide_that_was_changed_into_what_cannot_be_analysed_fails(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    lease = queue.claim()
    site.overwrite(slide)
    assert lease.fail("no_tissue", retryable=False).status == 200
    assert queue.status(request_id) == "failed"


@pytest.mark.parametrize(
    "members",
    [
        {"result": {}},
        {"result": {"probabilities": {"a": 1.5}}},
        {"result": {"top_patches": [{}] * 101}},
        {"error": {"code": "x", "message": "y", "retryable": False}},
        {"fingerprint": "short"},
        {"artifacts": [{"name": "heatmap.png"}]},
        {"artifacts": [named("heatmap.png", PNG)] * 2},
    ],
)
def test_a_bad_completion_changes_nothing(queue: Queue, members: dict[str, Any]) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.put("heatmap.png", PNG)
    assert lease.complete(**members).status == 400
    assert queue.status(request_id) == "processing"


def test_a_result_whose_summary_is_too_large_for_the_state_is_refused(queue: Queue) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    answer = lease.complete(result={**RESULT, "quality": {"status": "ok", "flags": ["x" * 9000]}})
    assert (answer.status, "quality" in answer.json["error"]) == (413, True)
    assert queue.status(request_id) == "processing"
    assert lease.complete(result={**RESULT, "note": "x" * 9000}).status == 200


def test_a_token_is_wanted_for_an_artifact(queue: Queue, site: Site) -> None:
    queue.submitted()
    lease = queue.claim()
    path = f"/pathology/requests/{lease.request_id}/artifacts/heatmap.png"
    answer = site.call("PUT", path, user=WORKER, data=PNG, headers={"Content-Type": "image/png"})
    assert answer.status == 400


def test_a_result_of_other_content_stays_refused_after_a_person_has_retried(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    for _ in range(2):  # the second time it fails
        lease = queue.claim()
        body = lease.body(fingerprint="0" * 64)
        assert lease.send(body).json["code"] == "series_changed"
    assert queue.status(request_id) == "failed"
    assert queue.decide(request_id, "retry").status == 200

    answer = lease.send(body)
    assert (answer.status, answer.json["code"]) == (409, "series_changed")


def test_a_dicom_series_belongs_to_one_request(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    content = tiny_result(slide.study_uid)
    queue.submitted(slide, parameters={"n": 1})
    assert queue.claim().put("sr.dcm", content, "application/dicom").status == 200
    queue.submitted(slide, parameters={"n": 2})

    answer = queue.claim("other").put("sr.dcm", content, "application/dicom")
    assert (answer.status, answer.json["code"]) == (409, "artifact_mismatch")
