# SPDX-License-Identifier: AGPL-3.0-or-later
"""After a start: the open requests come first, and nothing is stored over a slide until all are read."""

from __future__ import annotations

import base64
import threading

import pytest

from orthanc_plugin.application import Application
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.service.startup import load_all, load_open
from tests.support.fake_clock import FakeClock
from tests.support.queue_client import Queue
from tests.support.sites import PERSON, MemorySite, RecordingAudit, settings_of

CREDENTIALS = {"authorization": "Basic " + base64.b64encode(f"{PERSON}:x".encode()).decode()}


def starting(*, overwrites: bool) -> Application:
    gateway = MemoryGateway({"AuthenticationEnabled": True, "OverwriteInstances": overwrites})
    return Application(settings_of(), gateway, FakeClock(), RecordingAudit(), lambda _: None)


def allowed(application: Application, method: str, path: str) -> bool:
    return application.allows(method, path, "10.0.0.1", CREDENTIALS)


def test_an_instance_is_stored_once_the_requests_are_read() -> None:
    application = starting(overwrites=True)
    answers: list[bool] = []
    storing = threading.Thread(target=lambda: answers.append(allowed(application, "POST", "/instances")))
    storing.start()
    storing.join(0.2)
    assert answers == []
    application.core.ready.all_known.set()
    storing.join(5)
    assert answers == [True]


@pytest.mark.parametrize(
    ("method", "path", "overwrites"),
    [
        ("GET", "/system", True),
        ("POST", "/tools/find", True),
        ("POST", "/pathology/claim", True),
        ("POST", "/instances", False),
    ],
)
def test_nothing_else_waits(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str, overwrites: bool
) -> None:
    application = starting(overwrites=overwrites)
    monkeypatch.setattr(application.core.ready.all_known, "wait", lambda _: pytest.fail("it waited"))
    assert allowed(application, method, path)


def test_a_refusal_does_not_wait_either(monkeypatch: pytest.MonkeyPatch) -> None:
    application = starting(overwrites=True)
    monkeypatch.setattr(application.core.ready.all_known, "wait", lambda _: pytest.fail("it waited"))
    assert not allowed(application, "PUT", "/series/x/metadata/5000")


def test_the_open_requests_are_handed_out_before_all_series_are_read() -> None:
    site = MemorySite()
    queue = Queue(site)
    request_id = queue.submitted()
    site.application = Application(site.settings, site.gateway, site.clock, site.audit, site.warnings.append)
    assert queue.try_claim().status == 503
    load_open(site.application.core)
    assert queue.claim().request_id == request_id


def test_a_stop_ends_the_reading() -> None:
    site = MemorySite()
    Queue(site).submitted()
    application = Application(site.settings, site.gateway, site.clock, site.audit, site.warnings.append)
    application.core.stop()
    load_all(application.core)
    assert not application.core.ready.all_known.is_set()
    assert application.core.index.known_series() == set()
