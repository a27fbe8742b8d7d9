# SPDX-License-Identifier: AGPL-3.0-or-later
"""Older workers: they take a request by reporting on it, on the older server's paths, without a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orthanc_plugin.gateway import InstanceInfo
from tests.support.queue_client import RESULT, Queue
from tests.support.sites import PERSON, WORKER, Answer, MemorySite, Site


def report(site: Site, request_id: str, **members: Any) -> Answer:
    body = {"status": "processing", **members}
    return site.call("POST", f"/api/pathology/update-status/{request_id}/", user=WORKER, body=body)


def complete(site: Site, request_id: str, **members: Any) -> Answer:
    return site.call("POST", f"/api/pathology/complete-request/{request_id}/", user=WORKER, body=members)


def test_the_first_to_report_has_the_request_for_half_an_hour(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    answer = report(site, request_id)
    assert (answer.status, answer.json["status"]) == (200, "processing")
    assert answer.json["lease"]["duration_s"] == 1800
    request = queue.get(request_id)
    assert (request["status"], request["attempts"], request["worker_id"]) == ("processing", 1, WORKER)


def test_the_second_to_report_gets_a_409(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    assert report(site, request_id).status == 200
    second = report(site, request_id)
    assert (second.status, second.json["code"]) == (409, "lease_lost")
    named = report(site, request_id, worker_id="another")
    assert (named.status, named.json["code"]) == (409, "lease_lost")


def test_progress_of_the_first_is_taken(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    report(site, request_id)
    assert report(site, request_id, progress=0.5).status == 200
    assert queue.get(request_id)["progress"] == 0.5


def test_a_worker_that_gives_its_name_may_repeat_itself(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    assert report(site, request_id, worker_id="old-1").status == 200
    assert report(site, request_id, worker_id="old-1").status == 200
    assert queue.get(request_id)["worker_id"] == "old-1"


def test_it_delivers_a_result_whose_model_nobody_can_vouch_for(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    report(site, request_id)
    assert complete(site, request_id, result=RESULT).status == 200
    assert complete(site, request_id, result=RESULT).status == 200
    other = complete(site, request_id, result={"predicted_class": "normal"})
    assert (other.status, other.json["code"]) == (409, "already_completed")
    request = queue.get(request_id)
    assert (request["status"], request["summary"]["predicted_class"]) == ("completed", "oscc")
    assert "unapproved_model" in request["flags"]


def test_its_error_ends_the_request_until_a_person_decides(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    report(site, request_id)
    assert complete(site, request_id, error="out of memory").status == 200
    request = queue.get(request_id)
    assert request["status"] == "failed"
    assert request["error"] == {"code": "worker_failed", "message": "out of memory", "retryable": False}


def test_it_can_give_a_request_back(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    report(site, request_id)
    assert report(site, request_id, status="pending").json["status"] == "pending"
    assert report(site, request_id, worker_id="another").status == 200


def test_it_delivers_nothing_that_it_did_not_begin(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    assert complete(site, request_id, result=RESULT).json["code"] == "lease_lost"
    lease = queue.claim()
    assert complete(site, request_id, result=RESULT).json["code"] == "lease_lost"
    assert report(site, request_id, progress=0.1).json["code"] == "lease_lost"
    assert lease.heartbeat().status == 200


def test_a_worker_with_a_token_does_not_get_what_an_older_one_has(queue: Queue, site: Site) -> None:
    report(site, queue.submitted())
    assert queue.try_claim().status == 204


@pytest.mark.parametrize(
    ("members", "field"), [({"worker_id": "a b"}, "worker_id"), ({"status": "finished"}, "status")]
)
def test_what_it_sends_is_checked(queue: Queue, site: Site, members: dict[str, Any], field: str) -> None:
    answer = report(site, queue.submitted(), **members)
    assert (answer.status, answer.json["field"]) == (400, field)


def test_a_person_is_no_older_worker(queue: Queue, site: Site) -> None:
    path = f"/api/pathology/update-status/{queue.submitted()}/"
    assert site.call("POST", path, user=PERSON, body={"status": "processing"}).status == 403


def worker_named(site: Site, name: str) -> dict[str, Any]:
    found = {item["worker_id"]: item for item in site.call("GET", "/pathology/workers").json["workers"]}
    worker = found[name]
    assert isinstance(worker, dict)
    return worker


def test_it_is_alive_while_its_lease_lasts_and_while_it_looks_for_more() -> None:
    site = MemorySite()
    report(site, Queue(site).submitted())
    site.pass_time(1790)
    assert worker_named(site, WORKER)["alive"] is True
    assert site.call("GET", "/pathology/health").json["workers_alive"] == 1
    site.call("GET", "/api/pathology/pending-requests/", user=WORKER)
    site.pass_time(1790)
    assert worker_named(site, WORKER)["alive"] is True
    site.pass_time(20)
    assert worker_named(site, WORKER)["alive"] is False


def test_one_of_the_name_of_a_current_worker_does_not_take_its_models_away(queue: Queue, site: Site) -> None:
    queue.submitted()
    queue.claim("gpu-1", counters={"tiles": 7}).complete()
    report(site, queue.submitted(), worker_id="gpu-1")
    worker = worker_named(site, "gpu-1")
    assert [model["name"] for model in worker["models"]] == [queue.model]
    assert worker["counters"] == {"tiles": 7}


def when_the_slide_is_looked_at(site: MemorySite, action: Callable[[], object]) -> None:
    """Let something happen between an older worker's report and the lease that it would get."""
    read = site.gateway.instances

    def instances(series_id: str) -> tuple[InstanceInfo, ...]:
        site.gateway.instances = read  # type: ignore[method-assign]
        action()
        return read(series_id)

    site.gateway.instances = instances  # type: ignore[method-assign]


def test_of_two_at_the_same_moment_the_second_gets_a_409_that_says_so() -> None:
    site = MemorySite()
    request_id = Queue(site).submitted()
    when_the_slide_is_looked_at(site, lambda: report(site, request_id, worker_id="first"))
    answer = report(site, request_id, worker_id="second")
    assert (answer.status, answer.json["code"]) == (409, "lease_lost")


def test_what_it_takes_over_is_not_said_to_be_made_by_the_others_model() -> None:
    site = MemorySite()
    queue = Queue(site)
    queue.submitted()
    queue.claim().heartbeat()
    request_id = queue.submitted()
    models = [{"name": queue.model, "version": "1", "sha256": "0" * 64}]
    when_the_slide_is_looked_at(site, lambda: queue.claim(prefetch=True, models=models))
    assert report(site, request_id).status == 200
    request = queue.get(request_id)
    assert [grant["outcome"] for grant in request["grants"]] == ["taken_over", None]
    assert (request["model"], request["model_sha256"]) == (queue.model, None)


def test_half_an_hour_of_silence_ends_its_lease() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    report(site, request_id)
    site.pass_time(1790)
    assert queue.status(request_id) == "processing"
    site.restart(kill=True)
    site.pass_time(1790)
    assert queue.status(request_id) == "processing"
    site.pass_time(11)
    assert queue.status(request_id) == "pending"


def test_it_is_off_unless_the_site_allows_it() -> None:
    site = MemorySite({"AllowTokenless": None})
    request_id = Queue(site).submitted()
    for answer in (report(site, request_id), complete(site, request_id, result=RESULT)):
        assert (answer.status, answer.json["field"]) == (400, "token")
        assert "Pathology.AllowTokenless" in answer.json["error"]


def test_a_site_that_permits_one_file_of_a_model_does_not_let_it_run_unseen() -> None:
    site = MemorySite({"Models": [{"Name": "m", "Sha256": "0" * 64}]})
    request_id = Queue(site, model="m").submitted()
    answer = report(site, request_id)
    assert (answer.status, answer.json["code"]) == (422, "unknown_model")


def test_a_drained_one_begins_nothing_more(queue: Queue, site: Site) -> None:
    report(site, queue.submitted(), worker_id="old-drained")
    site.call("POST", "/pathology/workers/old-drained/drain", body={})
    answer = report(site, queue.submitted(), worker_id="old-drained")
    assert (answer.status, answer.json["code"]) == (409, "wrong_state")
