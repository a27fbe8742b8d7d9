# SPDX-License-Identifier: AGPL-3.0-or-later
"""POST /pathology/analyze: what a person can submit, and what comes of submitting twice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.queue_client import Queue
from tests.support.sites import WORKER, Site


def test_a_slide_is_accepted_and_waits(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    answer = queue.submit(slide, priority=5, parameters={"b": 1, "a": 2})

    assert answer.status == 201
    request = answer.json["request"]
    assert answer.json["request_id"] == request["request_id"]
    assert request["status"] == "pending"
    assert request["series"] == slide.series
    assert request["series_instance_uid"] == slide.series_uid
    assert request["study_instance_uid"] == slide.study_uid
    assert request["parameters"] == {"a": 2, "b": 1}
    assert request["priority"] == 5
    assert request["created_by"] == "admin"
    assert len(request["fingerprint"]) == 64
    assert [event["event"] for event in request["history"]] == ["submitted"]


def test_the_same_wish_again_is_the_same_request(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    first = queue.submit(slide, parameters={"a": 1, "b": 2})
    second = queue.submit(slide, parameters={"b": 2, "a": 1})

    assert (first.status, second.status) == (201, 200)
    assert second.json["request_id"] == first.json["request_id"]
    assert second.json["created"] is False


def test_force_makes_a_new_request_that_names_its_predecessor(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    first = queue.submitted(slide)
    second = queue.submit(slide, force=True)

    assert second.status == 201
    assert second.json["request"]["predecessor"] == first
    third = queue.submit(slide, force=True)
    assert third.json["request"]["predecessor"] == second.json["request_id"]
    assert queue.submit(slide).json["request_id"] == third.json["request_id"]


@pytest.mark.parametrize("change", [{"parameters": {"a": 1}}, {"model_version": "2"}])
def test_another_wish_is_another_request(queue: Queue, site: Site, change: dict[str, Any]) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    assert queue.submit(slide, **change).status == 201


def test_a_failed_request_does_not_stand_in_the_way_of_a_new_one(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    queue.claim().fail("no_tissue", retryable=False)
    assert queue.submit(slide).status == 201


def test_a_slide_may_be_named_by_its_dicom_uids(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    body = {"series_instance_uid": slide.series_uid, "study_instance_uid": slide.study_uid}
    answer = site.call("POST", "/pathology/analyze", body={**body, "model": queue.model})
    assert answer.status == 201
    assert answer.json["request"]["series"] == slide.series


def test_a_slide_may_be_named_by_one_of_its_images(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    (instance,) = queue.claim().claimed["instances"]
    answer = site.call("POST", "/pathology/analyze", body={"instance": instance["id"], "model": queue.model})
    assert (answer.status, answer.json["request_id"]) == (200, request_id)


def test_a_study_submits_its_slides(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    study = queue.submit(slide).json["request"]["study"]
    body = {"study": study, "model": queue.model, "force": True}
    answer = site.call("POST", "/pathology/analyze", body=body)
    assert answer.status == 201
    assert slide.series in {item["series"] for item in answer.json["requests"]}


def test_the_older_servers_path_and_a_trailing_slash_work(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    body = {"series": slide.series, "model": queue.model}
    assert site.call("POST", "/api/pathology/analyze/", body=body).status == 201


def test_nobody_to_do_it_is_said_at_once(fresh_site: Site) -> None:
    answer = Queue(fresh_site).submit(fresh_site.new_slide())
    assert len(answer.json["warnings"]) == 1


def test_a_model_that_nobody_offers_is_said_with_those_that_are(fresh_site: Site) -> None:
    queue = Queue(fresh_site)
    queue.try_claim()
    answer = queue.submit(fresh_site.new_slide(), model="nope")
    assert "Offered are:" in answer.json["warnings"][0]


def test_a_living_worker_for_the_model_is_no_warning(queue: Queue, site: Site) -> None:
    queue.try_claim()
    assert queue.submit(site.new_slide()).json["warnings"] == []


def test_an_unknown_series_is_a_404(queue: Queue, site: Site) -> None:
    body = {"series": "00000000-00000000-00000000-00000000-00000000"}
    answer = site.call("POST", "/pathology/analyze", body=body)
    assert (answer.status, answer.json["code"]) == (404, "unknown_resource")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"priority": 101}, "priority"),
        ({"priority": True}, "priority"),
        ({"parameters": []}, "parameters"),
        ({"force": "yes"}, "force"),
        ({"seires": "x"}, "seires"),
    ],
)
def test_a_bad_member_is_named(queue: Queue, site: Site, body: dict[str, Any], field: str) -> None:
    answer = site.call("POST", "/pathology/analyze", body={"series": "x", **body})
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert field in answer.json["error"]


def test_exactly_one_target_is_wanted(site: Site) -> None:
    assert site.call("POST", "/pathology/analyze", body={}).status == 400
    assert site.call("POST", "/pathology/analyze", body={"series": "a", "study": "b"}).status == 400


def test_a_worker_may_not_submit(queue: Queue, site: Site) -> None:
    answer = site.call("POST", "/pathology/analyze", user=WORKER, body={"series": "a"})
    assert (answer.status, answer.json["code"]) == (403, "forbidden_role")


@pytest.mark.parametrize(
    ("content_type", "data", "status", "code"),
    [
        ("text/plain", b"{}", 415, "wrong_content_type"),
        ("application/json", b"{", 400, "bad_json"),
        ("application/json", b'{"priority": NaN}', 400, "bad_json"),
        ("application/json", b"[]", 400, "bad_json"),
        ("application/json", b" " * 70_000, 413, "body_too_large"),
    ],
)
def test_a_bad_body_is_refused(site: Site, content_type: str, data: bytes, status: int, code: str) -> None:
    answer = site.call("POST", "/pathology/analyze", data=data, headers={"Content-Type": content_type})
    assert (answer.status, answer.json["code"]) == (status, code)


def test_a_series_takes_twenty_open_requests_and_no_more(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    statuses = [queue.submit(slide, parameters={"n": number}).status for number in range(21)]
    assert statuses == [201] * 20 + [413]


def test_parameters_are_taken_up_to_four_kilobytes(queue: Queue, site: Site) -> None:
    slide, beside = site.new_slide(), len('{"n":""}')
    assert queue.submit(slide, parameters={"n": "x" * (4096 - beside)}).status == 201
    for text in ("x" * (4097 - beside), "é" * 2048):
        answer = queue.submit(slide, parameters={"n": text})
        assert (answer.status, answer.json["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("suffix", ["/study", "/instances", "?expand", "/../../system"])
@pytest.mark.parametrize("member", ["series", "study", "instance"])
def test_an_address_is_no_id(site: Site, member: str, suffix: str) -> None:
    body = {member: site.new_slide().series + suffix}
    answer = site.call("POST", "/pathology/analyze", body=body)
    assert (answer.status, answer.json["code"]) == (404, "unknown_resource")
