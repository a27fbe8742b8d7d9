# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is done from time to time: it takes nothing from those who are at work, and is tried again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from orthanc_plugin.errors import StorageError
from orthanc_plugin.service import clockwork
from orthanc_plugin.service.clockwork import tick
from tests.support.queue_client import PNG, Queue, named
from tests.support.sites import MemorySite


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


def test_a_lease_that_is_kept_up_while_the_overdue_ones_are_looked_through_is_kept(
    site: MemorySite, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = queue.submitted()
    queue.claim().heartbeat()
    core = site.application.core
    overdue = [core.index.get(request_id)]
    monkeypatch.setattr(core.index, "overdue", lambda _: overdue)
    tick(core)
    assert queue.status(request_id) == "processing"


def test_files_of_a_withdrawn_result_that_could_not_be_deleted_go_later(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    before = site.gateway.list_attachments(slide.series)
    request_id = queue.submitted(slide)
    lease = queue.claim()
    lease.put("heatmap.png", PNG)
    assert lease.complete(named("heatmap.png", PNG)).status == 200
    site.gateway.fail_next("delete_attachment")
    assert queue.decide(request_id, "withdraw", reason="wrong slide").status == 200
    assert site.gateway.list_attachments(slide.series) != before
    site.pass_time(10)
    assert site.gateway.list_attachments(slide.series) == before
    request = site.application.core.index.get(request_id)
    assert request is not None
    assert (request.artifacts, request.outputs) == ((), ())


def test_what_cannot_be_read_at_each_look_is_said_once_until_it_can(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:

        def fail() -> None:
            raise StorageError("The database is locked.")

        failing.setattr(site.application.core.unpublished, "requests", fail)
        for _ in range(3):
            site.pass_time(10)
        (warning,) = site.warnings
        assert warning.endswith("could not be read yet: The database is locked.")
    site.pass_time(10)
    assert not site.application.core.said


def test_what_was_said_of_what_another_call_has_done_since_is_not_kept_for_ever(
    site: MemorySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise StorageError("The database is locked.")

    core = site.application.core
    monkeypatch.setattr(clockwork, "_MOST_SAID", 1)
    core.said["done by another call"] = "Request … is tried again later."
    monkeypatch.setattr(core.listed, "prune", fail)
    site.pass_time(10)
    assert list(core.said) == ["lists"]


def test_a_series_is_listed_as_long_as_it_has_an_open_request(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    queue.submitted(slide)
    site.pass_time(600)
    assert site.application.core.listed.read() == (slide.series,)
    queue.claim().complete()
    site.pass_time(600)
    assert site.application.core.listed.read() == ()


def test_a_stop_leaves_nobody_waiting(site: MemorySite, queue: Queue) -> None:
    request_id = queue.submitted()
    version = queue.get(request_id)["version"]
    held = {"wait": "20", "version": version}
    waits: tuple[Callable[[], Any], ...] = (
        lambda: Queue(site, "other").try_claim(wait=20),
        lambda: site.call("GET", f"/pathology/requests/{request_id}", query=held),
    )
    threads = [threading.Thread(target=wait, daemon=True) for wait in waits]
    for thread in threads:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    site.application.core.stop()
    for thread in threads:
        thread.join(3)
        assert not thread.is_alive()
    assert site.application.core.ready.stopping.is_set()
