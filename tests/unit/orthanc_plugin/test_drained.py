# SPDX-License-Identifier: AGPL-3.0-or-later
"""Workers that a person lets take nothing more: they are listed until that is ended, and not too many are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.queue_client import Queue
from tests.support.sites import MemorySite


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


def drain(site: MemorySite, name: str, *, end: bool = False) -> Any:
    return site.call("POST", f"/pathology/workers/{name}/drain", body={"drain": not end})


def listed(site: MemorySite) -> dict[str, Any]:
    return {worker["worker_id"]: worker for worker in site.call("GET", "/pathology/workers").json["workers"]}


def test_a_drained_worker_that_never_comes_again_is_listed_until_its_drain_is_ended(site: MemorySite) -> None:
    Queue(site).try_claim("gone")
    assert drain(site, "gone").status == 200
    site.restart()
    worker = listed(site)["gone"]
    assert (worker["alive"], worker["drain"], worker["last_seen"]) == (False, True, None)
    assert drain(site, "gone", end=True).status == 200
    assert listed(site) == {}


def test_a_drained_worker_at_a_slide_is_listed_once_with_its_request(site: MemorySite) -> None:
    queue = Queue(site)
    request_id = queue.submitted()
    lease = queue.claim("busy")
    drain(site, "busy")
    site.restart()
    assert listed(site)["busy"]["request_id"] == request_id
    lease.heartbeat()
    workers = site.call("GET", "/pathology/workers").json["workers"]
    assert [(worker["worker_id"], worker["drain"]) for worker in workers] == [("busy", True)]


def test_where_too_many_are_drained_one_that_is_gone_makes_room(site: MemorySite) -> None:
    site.gateway.set_global_property(5003, json.dumps([f"gone-{number}" for number in range(500)]))
    site.restart()
    Queue(site).try_claim("lab")
    refused = drain(site, "lab")
    assert (refused.status, refused.json["code"]) == (409, "too_many_drained")
    assert not listed(site)["lab"]["drain"]
    (first, *_) = (name for name, worker in listed(site).items() if worker["drain"])
    assert drain(site, first, end=True).status == 200
    assert drain(site, "lab").status == 200
    assert listed(site)["lab"]["drain"]
