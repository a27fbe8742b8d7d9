# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is remembered of requests that Orthanc's failures kept from a worker."""

from __future__ import annotations

import pytest

from orthanc_plugin.queue import setbacks
from orthanc_plugin.queue.setbacks import Setbacks


def test_a_request_rests_twice_as_long_each_time_up_to_a_minute_and_begins_anew_once_it_was_given() -> None:
    held = Setbacks()
    rests = [held.note("a", "The file is lost.") for _ in range(7)]
    assert rests == [(2, True), (4, False), (8, False), (16, False), (32, False), (60, False), (60, False)]
    assert held.of("a") == "The file is lost."
    held.clear("a")
    assert held.of("a") is None
    assert held.note("a", "The file is lost.") == (2, True)


def test_the_one_that_failed_longest_ago_is_forgotten_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(setbacks, "_MOST_KEPT", 2)
    held = Setbacks()
    for request_id in ("a", "b", "a", "c"):
        held.note(request_id, "The file is lost.")
    assert [held.of(request_id) is not None for request_id in "abc"] == [True, False, True]
