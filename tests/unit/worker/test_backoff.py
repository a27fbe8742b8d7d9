# SPDX-License-Identifier: Apache-2.0
"""The wait before the next attempt: it doubles to a bound, is spread, and keeps to what the server asks."""

from __future__ import annotations

from worker.backoff import Backoff

LONGEST = Backoff(base_s=1.0, cap_s=60.0, uniform=lambda _low, high: high)


def test_the_longest_wait_doubles_up_to_a_bound_however_long_the_server_is_away() -> None:
    assert [LONGEST.delay(failures) for failures in (0, 1, 2, 5, 6, 5000)] == [1, 2, 4, 32, 60, 60]


def test_waits_are_spread_from_nothing_on() -> None:
    assert Backoff(uniform=lambda low, _high: low).delay(7) == 0


def test_what_the_server_asks_for_is_waited_in_any_case() -> None:
    assert LONGEST.delay(1, at_least_s=100) == 102
