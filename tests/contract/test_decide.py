# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a person decides, what lists show, what happens to a slide, and what survives a restart."""

from __future__ import annotations

import threading
import time
from itertools import combinations, product
from typing import Any

import pytest
from pydicom.uid import generate_uid

from orthanc_plugin.storage.archive import MAX_FINISHED
from tests.support.queue_client import PNG, Queue, named
from tests.support.sites import MONITOR, WORKER, MemorySite, ServerSite, Site, Slide
from tests.support.tiny_dicom import tiny_result, tiny_slide


def test_cancel_of_a_pending_request_is_immediate(queue: Queue) -> None:
    request_id = queue.submitted()
    assert queue.decide(request_id, "cancel").json["request"]["status"] == "cancelled"
    assert queue.try_claim().status == 204


def test_a_worker_learns_of_a_cancel_and_confirms_it(queue: Queue) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    assert queue.decide(request_id, "cancel").json["request"]["cancel_requested"] is True
    assert lease.heartbeat().json["cancel"] is True
    assert lease.heartbeat(status="cancelled").json["status"] == "cancelled"


def test_only_the_worker_that_holds_a_request_confirms_its_cancel(queue: Queue) -> None:
    request_id = queue.submitted()
    former = queue.claim()
    former.hand_back()
    holder = queue.claim("another")
    queue.decide(request_id, "cancel")
    answer = former.heartbeat(status="cancelled")
    assert (answer.status, answer.json["code"]) == (409, "lease_lost")
    assert queue.status(request_id) == "processing"
    assert holder.heartbeat(status="cancelled").json["status"] == "cancelled"


def test_a_lease_that_expires_under_a_cancel_ends_cancelled(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    queue.claim().heartbeat()
    queue.decide(request_id, "cancel")
    site.pass_time(2.1)
    assert queue.status(request_id) == "cancelled"


def test_a_completion_under_a_valid_lease_wins_over_a_cancel_and_says_so(queue: Queue) -> None:
    request_id = queue.submitted()
    lease = queue.claim()
    queue.decide(request_id, "cancel")
    assert lease.complete().json["request"]["status"] == "completed"
    details = [event["detail"] for event in queue.get(request_id)["history"]]
    assert "a cancel came too late" in details


def test_what_has_ended_cannot_be_cancelled(queue: Queue) -> None:
    lease = queue.completed()
    answer = queue.decide(lease.request_id, "cancel")
    assert (answer.status, answer.json["code"]) == (409, "wrong_state")


def test_a_person_can_retry_what_failed(queue: Queue) -> None:
    request_id = queue.submitted()
    queue.claim().fail("no_tissue", retryable=False)
    assert queue.decide(request_id, "retry").json["request"]["status"] == "pending"
    assert queue.claim().request_id == request_id


def test_a_request_that_is_retried_has_waited_since_then(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    created = queue.get(request_id)
    assert created["waiting_since"] == created["created"]
    queue.decide(request_id, "cancel")
    site.pass_time(0.2)
    queue.decide(request_id, "retry")
    claimed = queue.claim().claimed["request"]
    (retried,) = [one["at"] for one in queue.get(request_id)["history"] if one["event"] == "retried"]
    assert claimed["waiting_since"] == retried > created["created"]
    assert queue.get(request_id)["waiting_since"] == retried


def test_what_was_submitted_again_meanwhile_is_not_retried_besides(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    given_up = queue.submitted(slide)
    queue.decide(given_up, "cancel")
    again = queue.submitted(slide)
    answer = queue.decide(given_up, "retry")
    assert (answer.status, answer.json["code"]) == (409, "wrong_state")
    assert f"Request {again} stands for the same analysis." in answer.json["error"]
    queue.decide(again, "cancel")
    assert queue.decide(given_up, "retry").status == 200


def slide_of_another_study(site: Site) -> Slide:
    if not isinstance(site, MemorySite):
        return site.new_slide()
    return Slide(site.gateway.add_slide("1.2.9.1", "1.2.9"), "1.2.9.1", "1.2.9", "1.2.9.1.1")


@pytest.fixture
def mixed(queue: Queue, site: Site) -> list[dict[str, Any]]:
    """Return requests that differ in slide, model and state, the oldest first."""
    slides = [site.new_slide(), slide_of_another_study(site)]
    models = [queue.model, f"{queue.model}-2"]
    ids = []
    for model, slide, is_cancelled in product(models, slides, (False, True)):
        if isinstance(site, MemorySite):
            site.pass_time(0.01)
        ids.append(queue.submitted(slide, model=model, parameters={"cancelled": is_cancelled}))
        if is_cancelled:
            queue.decide(ids[-1], "cancel")
    return [queue.get(request_id) for request_id in ids]


def delivered_with_dicom(queue: Queue, slide: Slide) -> tuple[str, dict[str, Any]]:
    """Return the id of a completed request with a heatmap and a DICOM result, and what it says of that."""
    request_id = queue.submitted(slide)
    lease = queue.claim()
    content = tiny_result(slide.study_uid)
    lease.put("heatmap.png", PNG)
    lease.put("sr.dcm", content, "application/dicom")
    lease.complete(named("heatmap.png", PNG), named("sr.dcm", content))
    (output,) = queue.get(request_id)["dicom"]
    return request_id, output


def test_withdraw_deletes_the_result_and_keeps_the_record(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    request_id, output = delivered_with_dicom(queue, slide)

    assert queue.decide(request_id, "withdraw").status == 400
    answer = queue.decide(request_id, "withdraw", reason="wrong slide")
    assert answer.json["request"]["status"] == "withdrawn"
    assert output["series"] not in site.series_ids()
    assert site.call("GET", f"/pathology/requests/{request_id}/artifacts/heatmap.png").status == 404
    assert queue.get(request_id)["history"][-1]["detail"] == "wrong slide"
    assert queue.submit(slide).status == 201


def test_a_decision_that_is_sent_again_is_answered_as_before(queue: Queue, site: Site) -> None:
    request_id, _ = delivered_with_dicom(queue, site.new_slide())
    for what, body in (("review", {"verdict": "agree"}), ("withdraw", {"reason": "wrong slide"})):
        first, again = (queue.decide(request_id, what, **body) for _ in range(2))
        assert (first.status, again.status) == (200, 200)
        assert again.json["request"]["history"][-1] == first.json["request"]["history"][-1]
        assert len(again.json["request"]["history"]) == len(first.json["request"]["history"])
    assert queue.decide(request_id, "withdraw", reason="blurred").status == 409


def test_a_result_that_its_series_has_archived_is_withdrawn_as_well(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    request_id, output = delivered_with_dicom(queue, slide)
    for number in range(MAX_FINISHED):
        queue.decide(queue.submitted(slide, parameters={"n": number}), "cancel")

    assert queue.decide(request_id, "withdraw", reason="wrong slide").status == 200
    site.restart(kill=True)
    assert queue.status(request_id) == "withdrawn"
    assert output["series"] not in site.series_ids()
    assert site.call("GET", f"/pathology/requests/{request_id}/artifacts/heatmap.png").status == 404


def test_a_review_is_recorded_with_its_author(queue: Queue) -> None:
    lease = queue.completed()
    answer = queue.decide(lease.request_id, "review", verdict="disagree", comment="inflammation")
    review = answer.json["request"]["review"]
    assert (review["verdict"], review["comment"], review["by"]) == ("disagree", "inflammation", "admin")
    assert queue.decide(lease.request_id, "review", verdict="maybe").status == 400


@pytest.mark.parametrize("what", ["cancel", "retry", "withdraw", "review"])
def test_a_worker_decides_nothing(queue: Queue, site: Site, what: str) -> None:
    request_id = queue.submitted()
    answer = site.call("POST", f"/pathology/requests/{request_id}/{what}", user=WORKER, body={})
    assert answer.status == 403


def test_lists_are_filtered_and_paged(queue: Queue, site: Site) -> None:
    wanted = [queue.submitted() for _ in range(3)]
    queue.decide(wanted[1], "cancel")

    def ids(**query: str) -> list[str]:
        answer = site.call("GET", "/pathology/requests/", query={"model": queue.model, **query})
        return [item["request_id"] for item in answer.json["requests"]]

    assert ids() == wanted
    assert ids(status="cancelled") == [wanted[1]]
    assert ids(status="pending,cancelled") == wanted
    first = site.call("GET", "/pathology/requests/", query={"model": queue.model, "limit": "2"}).json
    assert [item["request_id"] for item in first["requests"]] == wanted[:2]
    assert ids(cursor=first["next"]) == wanted[2:]


FILTERS = ("series", "study", "model", "status", "since")


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_a_list_shows_what_meets_all_of_its_filters(
    mixed: list[dict[str, Any]], site: Site, order: str
) -> None:
    in_order = mixed if order == "oldest" else mixed[::-1]
    ids = {one["request_id"] for one in mixed}

    def meets(one: dict[str, Any], query: dict[str, str]) -> bool:
        return all(
            one["created"] >= value if name == "since" else one[name] == value
            for name, value in query.items()
        )

    for count in range(1, len(FILTERS) + 1):
        for names, like in product(combinations(FILTERS, count), mixed[1::3]):
            query = {name: like["created" if name == "since" else name] for name in names}
            answer = site.call(
                "GET", "/pathology/requests/", query={**query, "order": order, "limit": "1000"}
            )
            listed = [item["request_id"] for item in answer.json["requests"]]
            wanted = [one["request_id"] for one in in_order if meets(one, query)]
            assert [request_id for request_id in listed if request_id in ids] == wanted, query
    elsewhere = {"series": mixed[0]["series"], "study": mixed[-1]["study"]}
    assert site.call("GET", "/pathology/requests/", query=elsewhere).json["requests"] == []


def test_a_list_begins_with_the_newest_where_that_is_asked_for(queue: Queue, site: Site) -> None:
    wanted = [queue.submitted() for _ in range(3)]
    query = {"model": queue.model, "order": "newest", "limit": "2"}
    first = site.call("GET", "/pathology/requests/", query=query).json
    rest = site.call("GET", "/pathology/requests/", query={**query, "cursor": first["next"]}).json
    listed = [item["request_id"] for page in (first, rest) for item in page["requests"]]
    assert listed == wanted[::-1]
    assert rest["next"] is None


@pytest.mark.parametrize(
    "query",
    [
        {"status": "done"},
        {"full": "2"},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "x"},
        {"since": "soon"},
        {"cursor": "x"},
        {"order": "random"},
        {"a": "b"},
    ],
)
def test_a_bad_filter_is_named(site: Site, query: dict[str, str]) -> None:
    answer = site.call("GET", "/pathology/requests/", query=query)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")


def test_a_page_waits_for_a_change(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    query = {"wait": "10", "version": queue.get(request_id)["version"]}
    answers: list[Any] = []
    path = f"/pathology/requests/{request_id}/"
    page = threading.Thread(target=lambda: answers.append(site.call("GET", path, query=query)))
    page.start()
    time.sleep(0.2)
    assert not answers
    queue.decide(request_id, "cancel")
    page.join(5)
    assert answers[0].json["request"]["status"] == "cancelled"


def test_an_old_version_is_answered_at_once(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    started = time.monotonic()
    query = {"wait": "10", "version": "other"}
    assert site.call("GET", f"/pathology/requests/{request_id}", query=query).status == 200
    assert time.monotonic() - started < 2


def test_health_is_for_monitors_and_nothing_else_is(site: Site) -> None:
    health = site.call("GET", "/pathology/health", user=MONITOR).json
    assert (health["status"], health["api"]) == ("ok", 1)
    assert set(health["requests"]) >= {"pending", "completed"}
    assert site.call("GET", "/pathology/requests/", user=MONITOR).status == 403


def test_unknown_paths_and_methods_say_so(site: Site) -> None:
    assert site.call("GET", "/pathology/nothing").json["code"] == "unknown_route"
    answer = site.call("DELETE", "/pathology/health")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


def test_a_page_of_another_site_changes_nothing(queue: Queue, site: Site) -> None:
    request_id = queue.submitted()
    answer = site.call(
        "POST",
        f"/pathology/requests/{request_id}/cancel",
        body={},
        headers={"Origin": "https://evil.example", "Host": "127.0.0.1"},
    )
    assert answer.status == 403
    assert queue.status(request_id) == "pending"


def test_a_slide_stored_again_keeps_its_open_requests_under_its_new_content(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    finished = queue.completed(slide).request_id
    opened = queue.submitted(slide, parameters={"a": 1})
    before = queue.get(opened)["fingerprint"]
    site.overwrite(slide)

    request = queue.get(opened)
    assert request["status"] == "pending"
    assert request["flags"] == ["source_replaced"]
    assert request["fingerprint"] != before
    old = queue.get(finished)
    assert old["status"] == "completed"
    assert "source_replaced" in old["flags"]
    assert old["artifacts"] == []


@pytest.mark.parametrize("of", ["a file it had", "a further file"])
def test_a_result_says_that_its_slide_is_not_what_was_analysed(queue: Queue, site: Site, of: str) -> None:
    slide, level = site.new_slide(), generate_uid()
    site.store_file(slide, level, "before")
    request_id = queue.completed(slide).request_id
    site.store_file(slide, level, "before")
    assert queue.get(request_id)["flags"] == ["unapproved_model"]

    site.store_file(slide, level if of == "a file it had" else generate_uid(), "after")
    request = queue.get(request_id)
    assert (request["flags"][-1], request["history"][-1]["event"]) == ("slide_changed", "slide_changed")
    assert [artifact["name"] for artifact in request["artifacts"]] == ["heatmap.png"]
    assert queue.submit(slide).status == 201


@pytest.mark.server
def test_a_result_says_so_as_well_where_orthanc_died_before_the_slide_was_complete(
    server_site: ServerSite,
) -> None:
    slide, queue = server_site.new_slide(), Queue(server_site)
    request_id = queue.completed(slide).request_id
    further = tiny_slide(slide.series_uid, slide.study_uid)
    server_site.server.post("/instances", data=further).raise_for_status()
    server_site.restart(kill=True)
    until = time.monotonic() + 10
    while queue.get(request_id)["flags"][-1] != "slide_changed":
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_result_for_a_slide_stored_again_is_not_taken(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim()
    lease.heartbeat()
    site.overwrite(slide)
    answer = lease.complete()
    assert (answer.status, answer.json["code"]) == (409, "series_changed")


def test_the_requests_of_a_deleted_slide_are_gone(queue: Queue, site: Site) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    lease = queue.claim()
    site.delete(slide)
    assert lease.heartbeat().json["code"] == "source_deleted"
    assert lease.complete().status == 410
    assert site.call("GET", f"/pathology/requests/{request_id}/").status == 410
    site.restart()
    assert site.call("GET", f"/pathology/requests/{request_id}/").status == 404


def test_everything_answered_survives_a_restart(queue: Queue, site: Site) -> None:
    slide, other = site.new_slide(), site.new_slide()
    done = queue.submitted(slide)
    delivered = queue.claim()
    delivered.put("heatmap.png", PNG)
    body = delivered.body(named("heatmap.png", PNG))
    delivered.send(body)
    request_id = queue.submitted(other)
    working = queue.claim()
    working.put("heatmap.png", PNG)
    waiting = queue.submitted(other, parameters={"a": 1})

    site.restart(kill=True)

    assert queue.status(done) == "completed"
    assert site.call("GET", f"/pathology/requests/{done}/artifacts/heatmap.png").body == PNG
    assert delivered.send(body).status == 200
    assert queue.status(waiting) == "pending"
    assert queue.status(request_id) == "processing"
    assert working.heartbeat().status == 200
    assert queue.submit(other).json["request_id"] == request_id
    assert working.complete(named("heatmap.png", PNG)).status == 200
    assert queue.claim().request_id == waiting


def test_a_worker_that_died_with_the_server_loses_its_lease_after_a_full_one(
    queue: Queue, site: Site
) -> None:
    request_id = queue.submitted()
    queue.claim().heartbeat()
    site.restart()
    assert queue.status(request_id) == "processing"
    site.pass_time(2.1)
    assert queue.status(request_id) == "pending"
