# SPDX-License-Identifier: AGPL-3.0-or-later
"""A series whose state cannot be written or has no room left holds up nobody else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orthanc_plugin.codec import decode_state, encode_state
from orthanc_plugin.numbering import LAST_NUMBER
from tests.support.queue_client import Queue
from tests.support.sites import MemorySite, Slide


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


@pytest.fixture
def queue(site: MemorySite) -> Queue:
    return Queue(site)


def test_a_request_of_a_newer_plugin_does_not_hold_up_the_others(site: MemorySite, queue: Queue) -> None:
    newer = site.new_slide()
    queue.submitted(newer, priority=100)
    state = json.loads(site.gateway.get_metadata(newer.series, 5000) or b"")
    site.gateway.put_metadata(newer.series, 5000, json.dumps({**state, "schema": 2}).encode())
    site.restart(kill=True)
    waiting = queue.submitted()

    assert queue.try_claim().status == 503
    assert queue.claim().request_id == waiting


def test_a_series_that_cannot_be_read_does_not_hold_up_the_others(site: MemorySite, queue: Queue) -> None:
    queue.submitted(priority=100)
    waiting = queue.submitted()
    site.gateway.fail_next("instances")

    assert queue.try_claim().status == 503
    assert queue.claim().request_id == waiting


def use_up_numbers(site: MemorySite, slide: Slide) -> None:
    state = decode_state(slide.series, site.gateway.get_metadata(slide.series, 5000) or b"")
    full = encode_state(replace(state, next_number=LAST_NUMBER + 1))
    site.gateway.put_metadata(slide.series, 5000, full)
    site.restart(kill=True)


def test_a_request_on_a_series_without_room_for_results_fails(site: MemorySite, queue: Queue) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    use_up_numbers(site, slide)

    assert queue.try_claim().status == 204
    request = queue.get(request_id)
    assert (request["status"], request["error"]["code"]) == ("failed", "too_many_requests_on_series")


def test_the_log_is_not_filled_by_a_lease_on_a_series_that_went_unnoticed(
    site: MemorySite, queue: Queue
) -> None:
    slide = site.new_slide()
    request_id = queue.submitted(slide)
    queue.claim().heartbeat()
    site.gateway.delete_series(slide.series)  # and Orthanc's word of it is still on its way

    site.pass_time(3)
    site.pass_time(10)
    assert site.warnings == []
    assert site.call("GET", f"/pathology/requests/{request_id}").status == 410


def test_a_clock_that_was_set_back_does_not_keep_a_request_for_ever(site: MemorySite, queue: Queue) -> None:
    queue.submitted()
    queue.claim().fail(retryable=True)
    site.clock.shift(-365 * 86400)
    site.pass_time(1)
    queue.claim()


def test_a_clock_that_was_set_back_does_not_turn_a_worker_away(site: MemorySite, queue: Queue) -> None:
    queue.try_claim("other")
    request_id = queue.submitted()
    queue.claim("one")  # not confirmed: given again, first to others
    site.pass_time(2)
    assert queue.status(request_id) == "pending"
    site.clock.shift(-3600)
    assert queue.try_claim("one").status == 200
