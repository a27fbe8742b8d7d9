# SPDX-License-Identifier: AGPL-3.0-or-later
"""Long polls: first come, first served; capped; ended by a newer wait, by a stop, by time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from orthanc_plugin.clock import SystemClock
from orthanc_plugin.codec import SeriesState
from orthanc_plugin.held_leases import Lease
from orthanc_plugin.index import Index
from orthanc_plugin.waiting import ClaimPool, ClaimWaiter, PagePool, Taker
from tests.unit.orthanc_plugin.test_lifecycle import a_request


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


def test_a_repeated_claim_does_not_get_a_second_request(index: Index, pool: ClaimPool) -> None:
    add(index, "r1", "r2")
    first = pool.enter("a", "token", Taker(anything, anything), 5)
    second = pool.enter("a", "token", Taker(anything, anything), 5)
    assert (first.assigned, second.assigned) == ("r1", None)
    pool.leave(first)
    assert not second.bell.empty()


def test_a_newer_wait_of_the_same_worker_ends_the_older(pool: ClaimPool) -> None:
    first = enter(pool, "a")
    enter(pool, "a")
    assert pool.wait(first) is None
    assert first.is_over


def test_beyond_the_capacity_nobody_waits(pool: ClaimPool) -> None:
    enter(pool, "a"), enter(pool, "b")
    third = enter(pool, "c")
    started = time.monotonic()
    assert pool.wait(third) is None
    assert third.is_over
    assert time.monotonic() - started < 0.1


def test_a_wait_ends_with_its_time(pool: ClaimPool) -> None:
    waiter = enter(pool, "a", wait=0.05)
    assert pool.wait(waiter) is None
    assert waiter.is_over


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


def test_an_idle_worker_is_served_before_one_that_asks_ahead(index: Index, pool: ClaimPool) -> None:
    ahead = pool.enter("busy", "token", Taker(anything, anything, prefetch=True), 5)
    idle = enter(pool, "idle")
    add(index, "r1")
    pool.assign()
    assert (ahead.assigned, idle.assigned) == (None, "r1")


def test_two_claims_ahead_at_once_get_one_request(index: Index, pool: ClaimPool) -> None:
    add(index, "r1", "r2")
    taker = Taker(anything, anything, prefetch=True)
    first, second = pool.enter("busy", "one", taker, 5), pool.enter("busy", "two", taker, 5)
    assert (first.assigned, second.assigned) == ("r1", None)
