# SPDX-License-Identifier: AGPL-3.0-or-later
"""A worker's messages are doubled or overtaken, and answers get lost: its result arrives once, and whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orthanc_plugin.errors import StorageError
from tests.support.queue_client import PNG, Lease, Queue, named
from tests.support.sites import MemorySite


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


@pytest.fixture
def lease(queue: Queue) -> Lease:
    queue.submitted()
    lease = queue.claim()
    lease.heartbeat()
    return lease


def before_the_next(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch, write: str, act: Callable[[], Any]
) -> None:
    """Let something happen, once, when Orthanc is asked to write."""
    wanted = getattr(site.gateway, write)

    def first(*arguments: Any) -> None:
        monkeypatch.setattr(site.gateway, write, wanted)
        act()
        wanted(*arguments)

    monkeypatch.setattr(site.gateway, write, first)


def test_a_file_that_is_sent_twice_at_once_is_kept_once(
    site: MemorySite, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_the_next(site, monkeypatch, "put_attachment", lambda: lease.put("heatmap.png", PNG))
    assert lease.put("heatmap.png", PNG).status == 200
    assert len(site.gateway.list_attachments(lease.claimed["request"]["series"])) == 1
    assert lease.complete(named("heatmap.png", PNG)).status == 200


def test_a_file_that_replaces_a_verified_one_is_not_taken_for_it(
    site: MemorySite, queue: Queue, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease.put("heatmap.png", PNG)
    before_the_next(site, monkeypatch, "put_metadata", lambda: lease.put("heatmap.png", PNG + b"other"))
    answer = lease.complete(named("heatmap.png", PNG))
    assert (answer.status, answer.json["code"]) == (409, "artifact_mismatch")
    assert queue.status(lease.request_id) == "processing"

    lease.put("heatmap.png", PNG)
    assert lease.complete(named("heatmap.png", PNG)).status == 200
    path = f"/pathology/requests/{lease.request_id}/artifacts/heatmap.png"
    assert site.call("GET", path).body == PNG


@pytest.mark.parametrize("kind", ["result", "error"])
def test_a_completion_whose_write_was_in_doubt_is_the_same_answer_again(
    site: MemorySite, queue: Queue, lease: Lease, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write, read = site.gateway.put_metadata, site.gateway.get_metadata
    failing: list[int] = []

    def put_metadata(series_id: str, number: int, value: bytes) -> None:
        write(series_id, number, value)
        if number == site.settings.metadata_number and not failing:
            failing.append(2)  # the look whether it was written, and the one of the next try
            raise StorageError("The line was cut.")

    def get_metadata(series_id: str, number: int) -> bytes | None:
        if failing and failing[0]:
            failing[0] -= 1
            raise StorageError("The line is cut.")
        return read(series_id, number)

    monkeypatch.setattr(site.gateway, "put_metadata", put_metadata)
    monkeypatch.setattr(site.gateway, "get_metadata", get_metadata)
    error = {"code": "gpu_lost", "message": "It went wrong.", "retryable": False}
    body = lease.body() if kind == "result" else {**lease.proof, "error": error}
    assert [lease.send(body).status for _ in range(4)] == [503, 503, 200, 200]
    assert queue.status(lease.request_id) == ("completed" if kind == "result" else "failed")
