# SPDX-License-Identifier: AGPL-3.0-or-later
"""The leases in memory: each belongs to one grant, and ends with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orthanc_plugin.queue import leases, transition
from orthanc_plugin.queue.held_leases import NOTHING_SAID, HeldLeases, Lease, Live
from orthanc_plugin.queue.values import AnalysisRequest
from tests.unit.orthanc_plugin.test_lifecycle import NOW, RECORD, working

FIRST = working()
SAID = Live("encoding", 0.5)


def lease_for(request: AnalysisRequest) -> Lease:
    return Lease(request.fence, 10.0 * request.fence)


@pytest.fixture
def held() -> HeldLeases:
    held = HeldLeases()
    held.follow(FIRST, lease_for)
    held.renew("r", 1, 15.0, SAID)
    return held


def taken_over() -> AnalysisRequest:
    ahead = replace(FIRST, grants=transition.with_last_grant(FIRST, prefetch=True))
    grant = replace(FIRST.grants[-1], fence=2, worker_id="idle", token_sha256="u" * 64)
    return leases.granted(ahead, grant, RECORD, NOW)


def test_a_lease_that_is_kept_up_keeps_its_time_and_what_was_said(held: HeldLeases) -> None:
    held.follow(replace(FIRST, updated=NOW + 1), lease_for)
    assert (held.get("r"), held.live("r")) == (Lease(1, 15.0), SAID)


def test_the_lease_of_the_next_worker_begins_with_its_own_time_and_nothing_said(held: HeldLeases) -> None:
    held.follow(taken_over(), lease_for)
    assert (held.get("r"), held.live("r")) == (Lease(2, 20.0), NOTHING_SAID)
    assert (held.request_of_token("t" * 64), held.request_of_token("u" * 64)) == (None, "r")


def test_a_heartbeat_of_the_worker_before_neither_keeps_nor_changes_the_next_lease(held: HeldLeases) -> None:
    held.follow(taken_over(), lease_for)
    assert not held.renew("r", 1, 99.0, SAID)
    assert (held.get("r"), held.live("r")) == (Lease(2, 20.0), NOTHING_SAID)


def test_with_its_request_a_lease_is_over(held: HeldLeases) -> None:
    held.follow(leases.handed_back(FIRST, NOW), lease_for)
    assert (held.get("r"), held.live("r"), held.request_of_token("t" * 64)) == (None, NOTHING_SAID, None)
    assert not held.renew("r", 1, 99.0, SAID)


def test_a_lease_is_overdue_from_the_end_of_its_time(held: HeldLeases) -> None:
    assert (held.overdue(14.9), held.overdue(15.0)) == ([], ["r"])


def test_only_what_was_not_said_before_is_news(held: HeldLeases) -> None:
    assert not held.renew("r", 1, 20.0, SAID)
    assert held.renew("r", 1, 20.0, replace(SAID, progress=0.6))
