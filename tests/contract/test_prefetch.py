# SPDX-License-Identifier: AGPL-3.0-or-later
"""A lease ahead: a busy worker fetches its next slide, and an idle one may have it while it is not begun."""

from __future__ import annotations

import threading

import pytest

from tests.support.queue_client import Lease, Queue, new_token
from tests.support.sites import Answer, Site


@pytest.fixture
def busy(queue: Queue) -> Lease:
    """Return the lease of a worker at its first slide."""
    queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    return lease


def ahead(queue: Queue) -> Lease:
    """Return the confirmed lease on a further slide, which the same worker fetches ahead."""
    queue.submitted()
    lease = queue.claim(prefetch=True)
    lease.heartbeat(prefetch=True)
    return lease


def test_a_claim_ahead_says_that_it_was_understood(queue: Queue, busy: Lease) -> None:
    assert busy.claimed["lease"]["prefetch"] is False
    assert ahead(queue).claimed["lease"]["prefetch"] is True


def test_heartbeats_that_say_so_keep_it_ahead(queue: Queue, busy: Lease) -> None:
    lease = ahead(queue)
    for _ in range(2):
        assert lease.heartbeat(prefetch=True).json["lease"]["prefetch"] is True


def test_the_first_heartbeat_without_it_begins_the_slide_for_good(queue: Queue, busy: Lease) -> None:
    lease = ahead(queue)
    assert lease.heartbeat().json["lease"]["prefetch"] is False
    assert lease.heartbeat(prefetch=True).json["lease"]["prefetch"] is False
    assert queue.try_claim("idle").status == 204
    assert [event["event"] for event in queue.get(lease.request_id)["history"]][-1] == "begun"


def test_nobody_takes_over_what_a_restart_finds_in_work(queue: Queue, busy: Lease, site: Site) -> None:
    lease = ahead(queue)
    lease.heartbeat()  # it has begun, which is written
    site.restart(kill=True)
    assert queue.try_claim("idle").status == 204
    assert lease.heartbeat().status == 200


def test_a_worker_has_one_slide_ahead_at_most(queue: Queue, busy: Lease) -> None:
    lease = ahead(queue)
    second = queue.submitted()
    assert queue.try_claim(prefetch=True).status == 204
    lease.heartbeat()
    assert queue.claim(prefetch=True).request_id == second


def test_a_repeated_claim_ahead_finds_its_lease(queue: Queue, busy: Lease) -> None:
    queue.submitted()
    token = new_token()
    first = queue.claim(token=token, prefetch=True)
    second = queue.claim(token=token, prefetch=True)
    assert (second.request_id, second.fence) == (first.request_id, first.fence)


def test_an_idle_worker_takes_over_what_is_not_begun(queue: Queue, busy: Lease) -> None:
    lease = ahead(queue)
    taken = queue.claim("idle")
    assert (taken.request_id, taken.fence) == (lease.request_id, lease.fence + 1)
    assert taken.claimed["lease"]["prefetch"] is False
    request = queue.get(lease.request_id)
    assert request["attempts"] == 0
    assert [grant["outcome"] for grant in request["grants"]] == ["taken_over", None]
    assert f"taken over from {busy.worker_id}" in request["history"][-1]["detail"]


def test_the_loser_learns_it_from_its_next_heartbeat_and_delivers_nothing(queue: Queue, busy: Lease) -> None:
    lease = ahead(queue)
    taken = queue.claim("idle")
    for answer in (lease.heartbeat(prefetch=True), lease.heartbeat(), lease.hand_back(), lease.complete()):
        assert (answer.status, answer.json["code"]) == (409, "lease_lost")
    assert taken.heartbeat().status == 200
    assert taken.complete().status == 200
    assert busy.heartbeat().status == 200


def test_what_waits_goes_before_what_is_fetched_ahead(queue: Queue, busy: Lease) -> None:
    ahead(queue)
    waiting = queue.submitted(priority=-100)
    assert queue.claim("idle").request_id == waiting


def test_nobody_takes_over_ahead(queue: Queue, busy: Lease) -> None:
    ahead(queue)
    assert queue.try_claim("other", prefetch=True).status == 204


def test_a_worker_does_not_take_over_from_itself(queue: Queue, busy: Lease) -> None:
    ahead(queue)
    assert queue.try_claim().status == 204


def test_a_cancelled_one_is_not_taken_over(queue: Queue, busy: Lease) -> None:
    lease = ahead(queue)
    queue.decide(lease.request_id, "cancel")
    assert queue.try_claim("idle").status == 204
    assert lease.heartbeat(prefetch=True).json["cancel"] is True


def test_a_lease_ahead_that_runs_out_counts_like_any_other(queue: Queue, site: Site, busy: Lease) -> None:
    """A slide that kills whoever opens it must not be given out for ever."""
    lease = ahead(queue)
    site.pass_time(2.1)
    request = queue.get(lease.request_id)
    assert (request["status"], request["attempts"]) == ("pending", 1)


def test_a_lease_that_ran_out_is_taken_up_by_beginning_the_slide_only(
    queue: Queue, site: Site, busy: Lease
) -> None:
    lease = ahead(queue)
    site.pass_time(2.1)
    assert lease.heartbeat(prefetch=True).json["code"] == "lease_lost"
    assert lease.heartbeat().json["lease"]["prefetch"] is False


def test_a_result_counts_also_where_the_slide_was_never_said_to_be_begun(queue: Queue, busy: Lease) -> None:
    lease = ahead(queue)
    assert lease.complete().status == 200
    assert queue.status(lease.request_id) == "completed"


def test_the_list_of_workers_names_the_slide_that_is_begun(queue: Queue, site: Site, busy: Lease) -> None:
    ahead(queue)
    workers = {item["worker_id"]: item for item in site.call("GET", "/pathology/workers").json["workers"]}
    assert workers[busy.worker_id]["request_id"] == busy.request_id


def test_an_idle_worker_is_not_held_by_a_slide_ahead_that_can_be_analysed_no_more(
    queue: Queue, site: Site, busy: Lease
) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    lease = queue.claim(prefetch=True)
    lease.heartbeat(prefetch=True)
    site.leave_label(slide)
    answers: list[Answer] = []
    claim = threading.Thread(target=lambda: answers.append(queue.try_claim("idle")), daemon=True)
    claim.start()
    claim.join(10)
    assert [answer.status for answer in answers] == [204]
    assert lease.fail("no_volume", retryable=False).status == 200
    assert queue.status(lease.request_id) == "failed"


def test_a_restart_leaves_it_ahead(queue: Queue, site: Site, busy: Lease) -> None:
    lease = ahead(queue)
    site.restart(kill=True)
    assert lease.heartbeat(prefetch=True).json["lease"]["prefetch"] is True
    assert queue.claim("idle").request_id == lease.request_id


def test_a_bad_mark_is_named(queue: Queue) -> None:
    answer = queue.try_claim(prefetch="yes")
    assert (answer.status, answer.json["field"]) == (400, "prefetch")
