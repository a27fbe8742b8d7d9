# SPDX-License-Identifier: AGPL-3.0-or-later
"""POST /pathology/claim and update-status: who gets which request, and for how long."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.contract.test_openapi import problems
from tests.support.queue_client import Queue, new_token
from tests.support.sites import MONITOR, PERSON, WORKER, Site


def test_a_claim_gives_a_request_its_lease_and_its_files(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    claimed = queue.claim().claimed

    assert claimed["request"]["request_id"] == request_id
    assert claimed["request"]["status"] == "processing"
    assert claimed["lease"] == {
        "fence": 1,
        "prefetch": False,
        "duration_s": 2.0,
        "heartbeat_s": 0.5,
        "confirm_s": 1.0,
    }
    assert [item["sop_instance_uid"] for item in claimed["instances"]] == [slide.sop_uid]
    assert claimed["instances"][0]["image_type"][2] == "VOLUME"


def test_nothing_to_do_is_a_204_that_says_when_to_come_again(queue: Queue) -> None:
    answer = queue.try_claim()
    assert (answer.status, answer.body) == (204, b"")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_repeated_claim_finds_its_lease(queue: Queue) -> None:
    queue.submitted()
    queue.submitted()
    token = new_token()
    first, second = queue.claim(token=token), queue.claim(token=token)
    assert (second.request_id, second.fence) == (first.request_id, first.fence)


def test_a_token_that_was_used_for_two_requests_breaks_neither(queue: Queue, site: Site) -> None:
    token = new_token()
    queue.submitted()
    first = queue.claim(token=token)
    first.heartbeat()
    site.pass_time(2.1)
    queue.submitted(priority=5)
    second = queue.claim(token=token)
    assert second.request_id != first.request_id
    assert first.heartbeat().status == 200
    assert [lease.complete().status for lease in (second, first)] == [200, 200]


def test_higher_priority_goes_first_then_age(queue: Queue, site: Site) -> None:
    low, high, later = queue.submitted(), queue.submitted(priority=10), queue.submitted(priority=10)
    order = [queue.claim(f"{queue.model}-{number}").request_id for number in range(3)]
    assert order == [high, later, low]


def test_a_worker_gets_only_models_that_it_offers(queue: Queue) -> None:
    queue.submitted(model_version="2")
    assert queue.try_claim().status == 204
    assert queue.try_claim(models=[{"name": queue.model, "version": "2"}]).status == 200


def test_a_request_without_a_model_goes_to_a_default_model(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    site.call("POST", "/pathology/analyze", body={"series": slide.series, "priority": 100})
    assert queue.try_claim().status == 204
    lease = queue.claim(default_model=queue.model)
    assert lease.claimed["request"]["model"] == queue.model
    assert lease.claimed["request"]["series"] == slide.series


def test_a_waiting_worker_is_served_as_soon_as_there_is_work(queue: Queue, site: Site) -> None:
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(queue.try_claim(wait=10)))
    waiting.start()
    time.sleep(0.2)
    started = time.monotonic()
    request_id = queue.submitted()
    waiting.join(8)
    assert answers[0].json["request"]["request_id"] == request_id
    assert time.monotonic() - started < 0.5


def test_a_second_wait_of_the_same_worker_ends_its_first(queue: Queue) -> None:
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(queue.try_claim("w", wait=10).status))
    waiting.start()
    time.sleep(0.2)
    assert queue.try_claim("w").status == 204
    waiting.join(5)
    assert answers == [204]


def test_the_first_heartbeat_confirms_the_attempt(queue: Queue) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    assert queue.get(request_id)["attempts"] == 0
    answer = lease.heartbeat(stage="encode", progress=0.42, detail="512 of 1220 tiles")
    assert answer.status == 200
    assert answer.json["cancel"] is False
    request = queue.get(request_id)
    assert request["attempts"] == 1
    assert (request["stage"], request["progress"], request["detail"]) == ("encode", 0.42, "512 of 1220 tiles")


def test_an_unconfirmed_lease_returns_uncounted(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    queue.claim()
    site.pass_time(1.1)
    request = queue.get(request_id)
    assert (request["status"], request["attempts"], request["fence"]) == ("pending", 0, 1)


def test_a_confirmed_lease_runs_out_after_its_time_and_counts(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    queue.claim().heartbeat()
    site.pass_time(2.1)
    request = queue.get(request_id)
    assert (request["status"], request["attempts"]) == ("pending", 1)
    assert request["error"]["code"] == "lease_expired"
    assert request["not_before"] is not None


def test_what_heartbeats_said_is_kept_with_the_next_transition(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    lease.complete()
    site.restart(kill=True)
    request = queue.get(request_id)
    assert request["attempts"] == 1
    assert [event["event"] for event in request["history"]][-3:] == ["confirmed", "delivered", "completed"]


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_lease_that_a_restart_finds_is_an_attempt(queue: Queue, site: Site, confirmed: bool) -> None:
    """Else a slide that brings the server down whenever it is worked on would be tried for ever."""
    request_id = queue.submitted()
    lease = queue.claim()
    if confirmed:
        lease.heartbeat()
    site.restart(kill=True)
    assert queue.get(request_id)["attempts"] == 1
    assert lease.heartbeat().status == 200
    assert queue.get(request_id)["attempts"] == 1
    site.pass_time(2.1)
    request = queue.get(request_id)
    assert (request["status"], request["attempts"]) == ("pending", 1)


def test_heartbeats_keep_a_lease(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    for _ in range(3):
        assert lease.heartbeat().status == 200
        site.pass_time(0.5)
    assert queue.status(request_id) == "processing"


def test_a_worker_that_was_silent_goes_on_where_nobody_claimed_since(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    site.pass_time(2.1)
    assert lease.heartbeat().status == 200
    request = queue.get(request_id)
    assert (request["status"], request["attempts"]) == ("processing", 1)


def test_what_was_taken_up_again_stays_taken_over_a_restart(queue: Queue, site: Site) -> None:
    """Else it would be given to another worker, too."""
    request_id = queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    site.pass_time(2.1)
    lease.heartbeat()
    site.restart(kill=True)
    assert queue.status(request_id) == "processing"


def test_a_superseded_worker_is_told_to_drop_the_work(queue: Queue, site: Site) -> None:
    queue.submitted()
    first = queue.claim()
    site.pass_time(1.1)
    second = queue.claim("other")
    answer = first.heartbeat()
    assert (answer.status, answer.json["code"]) == (409, "lease_lost")
    assert second.fence == first.fence + 1
    assert second.heartbeat().status == 200


def test_a_lease_handed_back_is_not_counted_and_free_at_once(queue: Queue) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    assert lease.hand_back().json["status"] == "pending"
    assert queue.get(request_id)["attempts"] == 0
    assert queue.claim().request_id == request_id


def test_a_stranger_cannot_report(queue: Queue) -> None:
    queue.submitted()
    lease = queue.claim()
    lease.token = new_token()
    assert lease.heartbeat().json["code"] == "lease_lost"


def test_an_unknown_request_is_a_404(queue: Queue) -> None:
    queue.submitted()
    lease = queue.claim()
    lease.claimed["request"]["request_id"] = "0" * 32
    answer = lease.heartbeat()
    assert (answer.status, answer.json["code"]) == (404, "unknown_request")


def test_another_version_of_the_interface_is_told_which_is_spoken(queue: Queue) -> None:
    answer = queue.try_claim(api=2)
    assert (answer.status, answer.json["code"]) == (409, "upgrade_worker")
    assert "version 1" in answer.json["error"]
    assert "version 2" in answer.json["error"]


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"token": "short"}, "token"),
        ({"worker_id": "a b"}, "worker_id"),
        ({"wait": -1}, "wait"),
        ({"models": [{"version": "1"}]}, "name"),
        ({"models": "all"}, "models"),
    ],
)
def test_a_bad_claim_names_the_member(queue: Queue, site: Site, members: dict[str, Any], field: str) -> None:
    body = {"worker_id": "w", "token": new_token(), "api": 1, "models": [], **members}
    answer = site.call("POST", "/pathology/claim", user=WORKER, body=body)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert field in answer.json["error"]


@pytest.mark.parametrize("user", [PERSON, MONITOR])
def test_only_workers_claim(queue: Queue, site: Site, user: str) -> None:
    body = {"worker_id": "w", "token": new_token(), "api": 1, "models": []}
    answer = site.call("POST", "/pathology/claim", user=user, body=body)
    assert (answer.status, answer.json["code"]) == (403, "forbidden_role")


def test_pending_requests_keep_the_older_servers_shape(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    answer = site.call("GET", "/api/pathology/pending-requests/")
    assert answer.json["success"] is True
    assert answer.json["count"] == len(answer.json["requests"])
    assert request_id in {item["request_id"] for item in answer.json["requests"]}


def test_an_answer_without_work_tells_the_servers_time(queue: Queue, site: Site) -> None:
    before = parsedate_to_datetime(queue.try_claim().headers["date"])
    site.pass_time(3)
    after = parsedate_to_datetime(queue.try_claim().headers["date"])
    assert 2 <= (after - before).total_seconds() <= 10


def test_a_drain_outlives_a_restart_until_it_is_ended(queue: Queue, site: Site) -> None:
    worker = f"{queue.model}-drained"
    queue.try_claim(worker)
    drain = f"/pathology/workers/{worker}/drain"
    assert site.call("POST", drain, body={}).status == 200
    site.restart()
    request_id = queue.submitted()
    answer = site.call("GET", "/pathology/workers").json
    assert problems(site.call("GET", "/pathology/openapi.json").json, "Workers", answer) == []
    (silent,) = (item for item in answer["workers"] if item["worker_id"] == worker)
    assert (silent["drain"], silent["alive"], silent["last_seen"]) == (True, False, None)
    refused = queue.try_claim(worker)
    assert (refused.status, refused.headers.get("x-pathology-drain")) == (204, "true")
    known = site.call("GET", "/pathology/workers").json["workers"]
    assert [item["drain"] for item in known if item["worker_id"] == worker] == [True]
    assert site.call("POST", drain, body={"drain": False}).status == 200
    assert queue.claim(worker).request_id == request_id


def member_of(site: Site, worker_id: str) -> dict[str, Any]:
    listed = site.call("GET", "/pathology/workers").json["workers"]
    return next(item for item in listed if item["worker_id"] == worker_id)


def test_a_worker_that_says_goodbye_is_gone_at_once_and_back_with_its_next_claim(
    queue: Queue, site: Site
) -> None:
    worker = f"{queue.model}-leaving"
    queue.try_claim(worker)
    assert member_of(site, worker)["alive"] is True
    request_id = queue.submitted()
    assert queue.get(request_id)["notes"] == []
    assert queue.try_claim(worker, leaving=True).status == 204
    assert member_of(site, worker)["alive"] is False
    assert queue.claim(worker).request_id == request_id
    assert member_of(site, worker)["alive"] is True


def test_two_workers_of_one_name_are_told_and_one_that_was_started_anew_is_not(
    queue: Queue, site: Site
) -> None:
    worker = f"{queue.model}-twice"
    for process in ("a", "b", "b", "c"):
        assert "x-pathology-shared-name" not in queue.try_claim(worker, process=process).headers
    assert member_of(site, worker)["shared_name"] is False
    assert queue.try_claim(worker, process="b").headers.get("x-pathology-shared-name") == "true"
    assert queue.try_claim(worker, process="c").headers.get("x-pathology-shared-name") == "true"
    assert member_of(site, worker)["shared_name"] is True


def test_a_draining_worker_gets_nothing_more(queue: Queue, site: Site) -> None:
    worker = f"{queue.model}-a"
    queue.submitted()
    lease = queue.claim(worker)
    answer = site.call("POST", f"/pathology/workers/{worker}/drain", body={})
    assert answer.status == 200
    assert lease.heartbeat().json["drain"] is True
    queue.submitted()
    assert queue.try_claim(worker).status == 204


def test_a_drain_ends_the_wait_of_its_worker_and_says_so(queue: Queue, site: Site) -> None:
    worker = f"{queue.model}-a"
    assert "x-pathology-drain" not in queue.try_claim(worker).headers
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(queue.try_claim, worker, wait=20)
        time.sleep(0.2)
        assert site.call("POST", f"/pathology/workers/{worker}/drain", body={}).status == 200
        answer = waiting.result(5)
    assert (answer.status, answer.headers.get("x-pathology-drain")) == (204, "true")


def test_workers_and_their_models_are_known(queue: Queue, site: Site) -> None:
    queue.submitted()
    lease = queue.claim(device="cpu", software="0.1.0")
    workers = {item["worker_id"]: item for item in site.call("GET", "/pathology/workers").json["workers"]}
    assert workers[lease.worker_id]["request_id"] == lease.request_id
    assert workers[lease.worker_id]["device"] == "cpu"
    models = site.call("GET", "/pathology/models").json["models"]
    assert {"name": queue.model, "version": "1", "sha256": None, "workers": [lease.worker_id]} in models


def test_what_a_worker_counts_of_itself_is_no_change_of_its_request(queue: Queue) -> None:
    """Else all who wait for a change of the request would be woken by every heartbeat."""
    queue.submitted()
    lease = queue.claim()
    lease.heartbeat(stage="encode", progress=0.5, counters={"tiles": 1})
    version = queue.get(lease.request_id)["version"]
    lease.heartbeat(stage="encode", progress=0.5, counters={"tiles": 2})
    assert queue.get(lease.request_id)["version"] == version
    lease.heartbeat(stage="encode", progress=0.6, counters={"tiles": 2})
    assert queue.get(lease.request_id)["version"] != version


def test_a_busy_worker_is_known_again_after_a_restart(queue: Queue, site: Site) -> None:
    queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    site.restart(kill=True)
    lease.heartbeat(counters={"tiles": 7})
    workers = {item["worker_id"]: item for item in site.call("GET", "/pathology/workers").json["workers"]}
    worker = workers[lease.worker_id]
    assert (worker["alive"], worker["request_id"]) == (True, lease.request_id)
    assert worker["counters"] == {"tiles": 7}
    assert [model["name"] for model in worker["models"]] == [queue.model]
    site.call("POST", f"/pathology/workers/{lease.worker_id}/drain", body={})
    assert lease.heartbeat().json["drain"] is True


def test_a_worker_reads_a_slide_only_under_its_lease(queue: Queue, site: Site) -> None:
    queue.submitted()
    pending = site.new_slide()
    lease = queue.claim()
    instance = lease.claimed["instances"][0]["id"]
    path = "/pathology/instances/{}/ranges"

    def read(orthanc_id: str) -> int:
        body = {"ranges": [[0, 132]]}
        return site.call("POST", path.format(orthanc_id), user=WORKER, body=body).status

    assert read(instance) == 200
    assert read(pending.series) == 403
    lease.hand_back()
    assert read(instance) == 403
