# SPDX-License-Identifier: Apache-2.0
"""A worker whose clock differs from the server's says so, once."""

from __future__ import annotations

import datetime as dt
import logging
from http.server import BaseHTTPRequestHandler

import pytest

from tests.unit.worker.conftest import Rig
from worker.api.server_clock import ServerClock, server_time
from worker.assembly import build_daemon
from worker.serving.daemon import Mode

NOW = dt.datetime(2026, 11, 22, 12, 0, 0, tzinfo=dt.UTC)
AGREES = "Sun, 22 Nov 2026 12:00:20 GMT"
DIFFERS = "Sun, 22 Nov 2026 11:50:00 GMT"


def test_a_proxys_date_is_taken_where_there_is_one() -> None:
    assert server_time("Sun, 22 Nov 2026 12:00:00 GMT", "") == NOW
    assert server_time(None, "20261122T120000") == NOW
    assert server_time(None, "forbidden") is None
    assert server_time("yesterday", "") is None
    assert server_time("Sun, 22 Nov 2026 12:00:00 -0000", "") == NOW


def test_clocks_that_differ_are_named_once_until_they_have_agreed(caplog: pytest.LogCaptureFixture) -> None:
    clock = ServerClock(lambda: NOW)
    for date in (None, "yesterday", AGREES, DIFFERS, DIFFERS, AGREES, DIFFERS):
        clock.told(date)
    assert [("NTP" in text, "+600 s" in text) for text in caplog.messages] == [(True, True)] * 2


def test_a_running_worker_compares_its_clock_with_the_date_of_its_claims_answers(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: DIFFERS)
    caplog.set_level(logging.WARNING)
    rig.environment["LONG_POLL"] = "0"
    build_daemon(rig.settings, rig.analyzer, rig.shutdown, rig.open_slide).run(Mode.UNTIL_EMPTY)
    assert [text for text in caplog.messages if "differs from the server's" in text] != []
