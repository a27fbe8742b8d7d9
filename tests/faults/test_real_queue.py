# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real Orthanc and real worker processes keep every promise through kills, stops and a bad network."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.drive_queue import Tally
from tests.faults.real_queue import check_grants, check_results, run
from tests.support.orthanc_server import require_orthanc


def event(name: str, request_id: str, fence: int, token: str) -> dict[str, Any]:
    return {"event": name, "request_id": request_id, "fence": fence, "token": token}


def held(fence: int, by: str | None, status: str = "completed") -> dict[str, Any]:
    return {"status": status, "fence": fence, "result": None if by is None else {"by": by}}


@pytest.mark.server
@pytest.mark.slow
def test_faults_on_the_real_thing_break_no_promise() -> None:
    require_orthanc()
    tally = run(30, seed=1)
    assert not tally.findings
    assert tally.results > 0, "the run delivered nothing, so it shows nothing"
    assert tally.crashes > 0


def test_the_checker_finds_a_fence_that_two_workers_hold() -> None:
    tally = Tally()
    check_grants(tally, [event("granted", "r", 1, "a"), event("granted", "r", 1, "b")])
    assert dict(tally.broken) == {"doubled": 1}


def test_the_checker_lets_an_answer_be_heard_twice() -> None:
    tally = Tally()
    check_grants(tally, [event("granted", "r", 1, "a"), event("granted", "r", 1, "a")])
    check_results(tally, [event("accepted", "r", 1, "a")] * 2, {"r": held(1, "a")})
    assert not tally.findings


@pytest.mark.parametrize(
    ("accepted", "known", "kind"),
    [
        ([(1, "a")], {}, "lost"),
        ([(1, "a")], {"r": held(1, None)}, "lost"),
        ([(1, "a")], {"r": held(1, "a", "pending")}, "lost"),
        ([(1, "a"), (2, "b")], {"r": held(2, "b")}, "doubled"),
        ([(1, "a")], {"r": held(2, "b")}, "superseded"),
    ],
)
def test_the_checker_names_what_became_of_a_result(
    accepted: list[tuple[int, str]], known: dict[str, Any], kind: str
) -> None:
    tally = Tally()
    check_results(tally, [event("accepted", "r", *item) for item in accepted], known)
    assert kind in tally.broken
