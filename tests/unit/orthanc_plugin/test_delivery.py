# SPDX-License-Identifier: AGPL-3.0-or-later
"""A worker's messages are doubled or overtaken, and answers get lost: its result arrives once, and whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orthanc_plugin.errors import StorageError
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.service import report
from orthanc_plugin.service.core import Core, find
from tests.support.queue_client import PNG, Lease, Queue, named
from tests.support.sites import Answer, MemorySite
from tests.support.tiny_dicom import tiny_result


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
    site: MemorySite, monkeypatch: pytest.MonkeyPatch, call: str, act: Callable[[], Any]
) -> None:
    """Let something happen, once, when Orthanc is asked to read or write."""
    wanted = getattr(site.gateway, call)

    def first(*arguments: Any) -> Any:
        monkeypatch.setattr(site.gateway, call, wanted)
        act()
        return wanted(*arguments)

    monkeypatch.setattr(site.gateway, call, first)


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


@pytest.mark.parametrize(
    ("what", "looks_at"),
    [
        ("result", "instances"),
        ("error", "instances"),
        ("other content", "instances"),
        ("file", "lookup_series"),
    ],
)
def test_what_another_worker_has_claimed_while_it_was_looked_at_is_not_taken(
    site: MemorySite, queue: Queue, lease: Lease, monkeypatch: pytest.MonkeyPatch, what: str, looks_at: str
) -> None:
    later: list[Lease] = []

    def run_out_and_claim() -> None:
        site.pass_time(5)  # the lease runs out
        site.pass_time(1)  # the request is due again
        later.append(queue.claim("another"))

    content = tiny_result(lease.claimed["request"]["study_instance_uid"])
    send: dict[str, Callable[[], Answer]] = {
        "result": lease.complete,
        "error": lease.fail,
        "other content": lambda: lease.complete(fingerprint="0" * 64),
        "file": lambda: lease.put("sr.dcm", content, "application/dicom"),
    }
    before_the_next(site, monkeypatch, looks_at, run_out_and_claim)
    answer = send[what]()
    assert (answer.status, answer.json["code"]) == (409, "lease_lost")
    assert site.gateway.list_attachments(lease.claimed["request"]["series"]) == ()
    assert later[0].heartbeat().status == 200
    assert later[0].complete().status == 200
    assert [grant["outcome"] for grant in queue.get(lease.request_id)["grants"]] == ["expired", "delivered"]


def test_a_heartbeat_that_another_claim_has_overtaken_confirms_nothing(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = queue.submitted()
    lease = queue.claim()

    def overtaken(core: Core, request_id: str) -> AnalysisRequest:
        found = find(core, request_id)
        monkeypatch.undo()
        site.pass_time(5)  # the lease runs out
        queue.claim("another")
        return found

    monkeypatch.setattr(report, "find", overtaken)
    answer = lease.heartbeat()
    assert (answer.status, answer.json["code"]) == (409, "lease_lost")
    assert [grant["confirmed"] for grant in queue.get(request_id)["grants"]] == [False, False]


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
