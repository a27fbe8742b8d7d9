# SPDX-License-Identifier: AGPL-3.0-or-later
"""Long polls: first come, first served; capped; ended by a newer wait, by a stop, by time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orthanc_plugin.clock import SystemClock
from orthanc_plugin.queue import lifecycle
from orthanc_plugin.queue.held_leases import Lease
from orthanc_plugin.queue.index import Index
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.transition import with_last_grant
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.queue.waiting import ClaimPool, ClaimWaiter, PagePool, Taker
from tests.support.fake_clock import FakeClock
from tests.unit.orthanc_plugin.test_lifecycle import a_request, claimed


def lease(request: Any) -> Lease:
    return Lease(request.fence, 0.0)


def anything(request: Any) -> bool:
    return True


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def pool(index: Index) -> ClaimPool:
    return ClaimPool(index, SystemClock(), capacity=2)


def add(index: Index, *names: str) -> None:
    requests = tuple(a_request(request_id=name, created=float(number)) for number, name in enumerate(names))
    hold(index, *requests)


def hold(index: Index, *requests: AnalysisRequest) -> None:
    index.replace(SeriesState("s", 5100, 1, requests), lease)


def enter(
    pool: ClaimPool, name: str, wait: float = 5.0, takes: Callable[[Any], bool] = anything
) -> ClaimWaiter:
    return pool.enter(name, f"token of {name}", Taker(anything, takes), wait)


def test_who_came_first_is_served_first(index: Index, pool: ClaimPool) -> None:
    first, second = enter(pool, "a"), enter(pool, "b")
    add(index, "r1")
    pool.assign()
    assert (first.assigned, second.assigned) == ("r1", None)
    assert (first.bell.empty(), second.bell.empty()) == (False, True)


def test_two_waiters_never_get_the_same_request(index: Index, pool: ClaimPool) -> None:
    add(index, "r1", "r2")
    first, second, third = enter(pool, "a"), enter(pool, "b"), enter(pool, "c")
    assert [first.assigned, second.assigned, third.assigned] == ["r1", "r2", None]


def test_who_cannot_do_it_does_not_hold_up_the_next(index: Index, pool: ClaimPool) -> None:
    first, second = enter(pool, "a", takes=lambda request: False), enter(pool, "b")
    add(index, "r1")
    pool.assign()
    assert (first.assigned, second.assigned) == (None, "r1")


def test_what_a_worker_cannot_run_is_not_looked_at_one_by_one(index: Index, pool: ClaimPool) -> None:
    add(index, *(f"r{number}" for number in range(100)))
    looks: list[str] = []

    def runs(request: Any) -> bool:
        looks.append(request.request_id)
        return False

    waiter = pool.enter("a", "token", Taker(runs, anything), 0)
    assert waiter.assigned is None
    assert len(looks) == 1


def test_whether_a_worker_has_room_is_asked_once(index: Index, pool: ClaimPool) -> None:
    add(index, *(f"r{number}" for number in range(100)))
    asked: list[bool] = []

    def has_room() -> bool:
        asked.append(True)
        return False

    assert pool.enter("a", "token", Taker(anything, anything, has_room), 0).assigned is None
    assert len(asked) == 1


def test_what_a_waiter_leaves_behind_goes_to_the_next(index: Index, pool: ClaimPool) -> None:
    first, second = enter(pool, "a"), enter(pool, "b")
    add(index, "r1")
    pool.assign()
    pool.leave(first)
    assert second.assigned == "r1"


def test_what_could_not_be_granted_rests(index: Index, pool: ClaimPool) -> None:
    waiter = enter(pool, "a")
    add(index, "r1")
    pool.assign()
    pool.refuse(waiter, hold_s=60)
    assert waiter.assigned is None
    pool.release(["r1"])
    assert waiter.assigned == "r1"


def test_a_rest_ends_with_its_time(index: Index) -> None:
    clock = FakeClock()
    pool = ClaimPool(index, clock, capacity=2)
    add(index, "r1")
    waiter = enter(pool, "a", wait=90)
    pool.refuse(waiter, hold_s=60)
    clock.advance(60)
    pool.assign()
    assert waiter.assigned == "r1"


def test_who_could_not_be_given_one_request_is_given_the_next(index: Index, pool: ClaimPool) -> None:
    add(index, "r1", "r2")
    waiter = enter(pool, "a")
    pool.refuse(waiter, hold_s=60)
    assert waiter.assigned == "r2"


def test_a_repeated_claim_waits_for_the_lease_of_its_first(index: Index, pool: ClaimPool) -> None:
    add(index, "r1", "r2")
    first = pool.enter("a", "token", Taker(anything, anything), 5)
    second = pool.enter("a", "token", Taker(anything, anything), 5)
    assert (first.assigned, second.assigned) == ("r1", None)
    hold(index, claimed(a_request(request_id="r1")))
    pool.leave(first)
    assert second.assigned is None
    assert not second.bell.empty()


def test_what_is_to_be_tried_again_later_is_not_given_out_before(index: Index) -> None:
    clock = FakeClock(now=1000.0)
    pool = ClaimPool(index, clock, capacity=2)
    waiter = enter(pool, "a", wait=60)
    hold(index, a_request(request_id="r1", not_before=1030.0))
    pool.assign()
    assert waiter.assigned is None
    clock.advance(30)
    pool.assign()
    assert waiter.assigned == "r1"


def test_a_newer_wait_of_the_same_worker_ends_the_older(pool: ClaimPool) -> None:
    first = enter(pool, "a")
    enter(pool, "a")
    assert not first.bell.empty()
    assert pool.wait(first) is None
    assert first.is_over


def test_the_newer_wait_of_a_worker_is_given_the_request(index: Index, pool: ClaimPool) -> None:
    older, newer = enter(pool, "a"), enter(pool, "a")
    add(index, "r1")
    pool.assign()
    assert (older.assigned, newer.assigned) == (None, "r1")


def test_waits_that_are_over_take_no_place_from_others(index: Index) -> None:
    pool = ClaimPool(index, FakeClock(), capacity=2)
    replaced, newer = enter(pool, "a"), enter(pool, "a")
    at_once, last = enter(pool, "b", wait=0), enter(pool, "c")
    assert [waiter.deadline for waiter in (newer, at_once, last)] == [1005, 1000, 1005]
    assert enter(pool, "d").deadline == 1000
    assert replaced.is_over


def test_beyond_the_capacity_nobody_waits(pool: ClaimPool) -> None:
    enter(pool, "a"), enter(pool, "b")
    third = enter(pool, "c")
    started = time.monotonic()
    assert pool.wait(third) is None
    assert third.is_over
    assert time.monotonic() - started < 0.1


def test_a_wait_ends_with_its_time(pool: ClaimPool) -> None:
    waiter = enter(pool, "a", wait=0.05)
    started = time.monotonic()
    assert pool.wait(waiter) is None
    assert waiter.is_over
    assert time.monotonic() - started < 2


def test_a_stop_wakes_everybody_at_once(index: Index, pool: ClaimPool) -> None:
    pages = PagePool(index, 2)
    waiter = enter(pool, "a", wait=30)
    waits = [
        threading.Thread(target=lambda: pool.wait(waiter)),
        threading.Thread(target=lambda: pages.wait_until(lambda: False, 30)),
    ]
    for thread in waits:
        thread.start()
    time.sleep(0.05)
    pool.stop()
    pages.stop()
    for thread in waits:
        thread.join(1)
        assert not thread.is_alive()
    late = threading.Thread(target=lambda: pool.wait(enter(pool, "b", wait=30)))
    late.start()
    late.join(1)
    assert not late.is_alive()


def test_a_page_waits_until_it_holds(index: Index) -> None:
    pages = PagePool(index, 1)
    seen: list[bool] = []
    waiting = threading.Thread(
        target=lambda: seen.append(pages.wait_until(lambda: index.get("r1") is not None, 5))
    )
    waiting.start()
    time.sleep(0.05)
    assert pages.wait_until(lambda: False, 5) is False
    add(index, "r1")
    waiting.join(1)
    assert seen == [True]


def test_a_page_that_has_waited_makes_room_for_the_next(index: Index) -> None:
    pages = PagePool(index, 1)
    for _ in range(3):
        assert pages.wait_until(lambda: False, 0.01)
    assert pages.waiting == 0


def test_a_page_that_need_not_wait_is_answered_however_many_do(index: Index) -> None:
    pages = PagePool(index, 0)
    assert not pages.wait_until(lambda: False, 5)
    assert pages.wait_until(lambda: True, 5)
    assert pages.wait_until(lambda: False, 0)


def test_an_idle_worker_is_served_before_one_that_asks_ahead(index: Index, pool: ClaimPool) -> None:
    ahead = pool.enter("busy", "token", Taker(anything, anything, prefetch=True), 5)
    idle = enter(pool, "idle")
    add(index, "r1")
    pool.assign()
    assert (ahead.assigned, idle.assigned) == (None, "r1")


def fetched_ahead(worker: str, **members: Any) -> AnalysisRequest:
    request = claimed(a_request(**members), worker=worker)
    return replace(request, grants=with_last_grant(request, prefetch=True))


def test_what_is_fetched_ahead_goes_to_another_idle_worker_that_runs_it(
    index: Index, pool: ClaimPool
) -> None:
    def given(worker: str, runs: Callable[[Any], bool] = anything) -> str | None:
        waiter = pool.enter(worker, f"token of {worker}", Taker(runs, anything), 5)
        pool.leave(waiter)
        return waiter.assigned

    ahead = fetched_ahead("busy", request_id="r1")
    hold(index, lifecycle.cancelled(ahead, "alice", 1.0))
    assert given("idle") is None
    hold(index, ahead)
    assert (given("busy"), given("unable", lambda request: False), given("idle")) == (None, None, "r1")


def test_of_what_is_fetched_ahead_the_most_urgent_is_taken_over_first(index: Index, pool: ClaimPool) -> None:
    names = [("r1", 0), ("r2", 5), ("r3", 5)]
    hold(index, *(fetched_ahead(name, request_id=name, priority=priority) for name, priority in names))
    waiters = [enter(pool, worker) for worker in ("a", "b", "c")]
    assert [waiter.assigned for waiter in waiters] == ["r2", "r3", "r1"]


def test_two_claims_ahead_at_once_get_one_request(index: Index, pool: ClaimPool) -> None:
    add(index, "r1", "r2")
    taker = Taker(anything, anything, prefetch=True)
    first, second = pool.enter("busy", "one", taker, 5), pool.enter("busy", "two", taker, 5)
    assert (first.assigned, second.assigned) == ("r1", None)


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", True), ("b", True)), (("a", False), ("a", True)), (("a", True), ("a", False))],
    ids=["of two workers", "ahead of its own", "its own after ahead"],
)
def test_two_claims_for_different_purposes_get_a_request_each(
    index: Index, pool: ClaimPool, one: tuple[str, bool], other: tuple[str, bool]
) -> None:
    add(index, "r1", "r2")
    first, second = (
        pool.enter(worker, f"{number}", Taker(anything, anything, prefetch=ahead), 5)
        for number, (worker, ahead) in enumerate((one, other))
    )
    assert (first.assigned, second.assigned) == ("r1", "r2")
