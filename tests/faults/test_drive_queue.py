# SPDX-License-Identifier: AGPL-3.0-or-later
"""The long run's own parts: it repeats itself from a seed, and it counts what is broken."""

from __future__ import annotations

import pytest

from tests.faults.drive_queue import drive, drive_episode
from tests.support.queue_driver import QueueDriver
from tests.support.queue_promises import require


def test_a_short_run_keeps_every_promise() -> None:
    tally = drive(1000, seed=100)
    assert tally.steps == 1000
    assert not tally.findings
    assert tally.results > 0
    assert tally.crashes > 0


def test_a_broken_promise_is_counted_by_its_kind_and_names_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueueDriver, "check", lambda _: require(False, "lost", "gone"))
    tally = drive_episode(7, 10)
    assert dict(tally.broken) == {"lost": 1}
    assert tally.findings == ["lost: gone (seed 7, step 0)"]


def test_no_further_episodes_are_begun_after_the_time_is_up() -> None:
    assert drive(10**9, seconds=-1.0).steps == 0
