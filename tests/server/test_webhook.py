# SPDX-License-Identifier: Apache-2.0
"""The webhook out of a real Orthanc: what is told, and that nobody waits for who is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import pytest

from tests.support.analysed_slide import submit
from tests.support.dicom_files import volume_file
from tests.support.fake_worker import FakeWorker
from tests.support.orthanc_server import OrthancServer, store_file
from tests.support.receiver import Receiver

pytestmark = pytest.mark.server

KEY = bytes(range(40))
SECRET = base64.b64encode(KEY).decode()


def server_telling(url: str) -> OrthancServer:
    """Return an Orthanc whose secret comes from the environment, as at a site."""
    webhook = {"Url": url, "Secret": "${PATHOLOGY_WEBHOOK_SECRET}"}
    overrides = {"Pathology": {"Webhook": webhook}}
    return OrthancServer(overrides=overrides, environment={"PATHOLOGY_WEBHOOK_SECRET": SECRET})


def failed(server: OrthancServer) -> str:
    """Let a request end; return its id."""
    series = store_file(server, volume_file())["ParentSeries"]
    request_id = submit(server, series)
    worker = FakeWorker(server)
    worker.claim()
    worker.fail("no_tissue", "The slide looks empty.")
    return request_id


def test_orthanc_tells_that_a_request_has_ended_and_signs_it() -> None:
    with Receiver() as receiver, server_telling(receiver.url) as server:
        request_id = failed(server)
        (received,) = receiver.wait_for(1)
        body = json.loads(received.body)
        assert (body["type"], body["data"]["request_id"]) == ("request.failed", request_id)
        head = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}."
        digest = hmac.new(KEY, head.encode() + received.body, hashlib.sha256).digest()
        assert received.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def test_orthanc_stops_at_once_while_a_receiver_is_silent() -> None:
    with Receiver(delay_s=30) as receiver, server_telling(receiver.url) as server:
        failed(server)
        receiver.wait_for(1)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 4
