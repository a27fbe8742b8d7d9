# SPDX-License-Identifier: AGPL-3.0-or-later
"""The webhook against real receivers: what arrives, and what happens where nothing does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from orthanc_plugin import webhook, webhook_client
from orthanc_plugin.clock import SystemClock
from orthanc_plugin.webhook import CAPACITY, Webhook
from orthanc_plugin.webhook_client import DeliveryError, Endpoint, Message, post
from tests.support.queue_client import Queue
from tests.support.receiver import Received, Receiver
from tests.support.sites import MemorySite

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
MESSAGE = Message("msg_1", b'{"type":"request.completed"}')


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become hundredths, so that a failure is waited for in no time."""
    monkeypatch.setattr(webhook, "PAUSES_S", (0.01, 0.02))
    monkeypatch.setattr(webhook, "_LOOK_S", 0.02)
    monkeypatch.setattr(webhook_client, "TIMEOUT_S", 0.4)


def signature_of(received: Received) -> str:
    """Return the signature as a receiver computes it, from the headers and body that arrived."""
    head = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}."
    digest = hmac.new(KEY, head.encode() + received.body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


@contextmanager
def told(url: str) -> Iterator[tuple[Queue, MemorySite]]:
    """A queue whose webhook goes to an address, and runs."""
    site = MemorySite({"Webhook": {"Url": url, "Secret": SECRET}})
    hook = site.application.core.webhook
    assert hook is not None
    stopping = threading.Event()
    thread = threading.Thread(target=hook.run, args=(stopping,))
    thread.start()
    try:
        yield Queue(site), site
    finally:
        stopping.set()
        thread.join()


def counts(site: MemorySite) -> dict[str, int]:
    assert site.application.core.webhook is not None
    return site.application.core.webhook.counts()


def wait_until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def test_a_completed_request_is_told_with_a_signature_that_verifies() -> None:
    with Receiver() as receiver, told(receiver.url) as (queue, _):
        lease = queue.completed()
        (received,) = receiver.wait_for(1)
    assert received.path == "/hook?from=orthanc"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["webhook-signature"] == signature_of(received)
    assert abs(int(received.headers["webhook-timestamp"]) - queue.site.clock.now()) < 2  # type: ignore[attr-defined]
    body = json.loads(received.body)
    assert body["type"] == "request.completed"
    assert body["data"]["request_id"] == lease.request_id


def test_only_ids_state_and_model_are_told() -> None:
    with Receiver() as receiver, told(receiver.url) as (queue, _):
        queue.completed()
        (received,) = receiver.wait_for(1)
    body = json.loads(received.body)
    assert set(body) == {"type", "timestamp", "data"}
    assert set(body["data"]) == {"request_id", "status", "model", "series"}
    assert body["data"]["model"] == queue.model


def test_every_end_is_told_once_and_nothing_else_is() -> None:
    with Receiver() as receiver, told(receiver.url) as (queue, site):
        lease = queue.completed()
        queue.decide(lease.request_id, "review", verdict="agree")
        queue.decide(lease.request_id, "withdraw", reason="wrong stain")
        queue.decide(queue.submitted(), "cancel")
        queue.submitted()
        assert queue.claim().fail("no_tissue", retryable=False).status == 200
        receiver.wait_for(4)
        wait_until(lambda: counts(site)["delivered"] == 4)
    kinds = [json.loads(one.body)["type"] for one in receiver.received]
    assert kinds == ["request.completed", "request.withdrawn", "request.cancelled", "request.failed"]


def test_a_redirect_is_not_followed() -> None:
    with Receiver() as elsewhere, Receiver([307], location=elsewhere.url) as receiver:
        with pytest.raises(DeliveryError, match="redirects are not followed") as caught:
            post(Endpoint(receiver.url, KEY), MESSAGE, {})
        assert not caught.value.passes
        assert elsewhere.received == []


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy, Receiver() as receiver:
        monkeypatch.setenv("http_proxy", proxy.url)
        post(Endpoint(receiver.url, KEY), MESSAGE, {})
        assert (len(receiver.received), len(proxy.received)) == (1, 0)


def test_a_receiver_that_fails_is_tried_again_with_the_same_message() -> None:
    with Receiver([503, 500, 204]) as receiver, told(receiver.url) as (queue, site):
        queue.completed()
        wait_until(lambda: counts(site) == {"delivered": 1, "dropped": 0, "failed": 0})
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 1
    assert [one.headers["webhook-signature"] == signature_of(one) for one in receiver.received] == [True] * 3


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (401, 1), (302, 1), (429, 3), (502, 3)])
def test_only_what_may_pass_is_tried_again_and_three_times_at_most(status: int, attempts: int) -> None:
    with Receiver([status]) as receiver, told(receiver.url) as (queue, site):
        queue.completed()
        wait_until(lambda: counts(site)["failed"] == 1)
        assert len(receiver.received) == attempts
        assert f"it answered {status}" in site.warnings[-1]


def test_a_receiver_that_is_down_costs_nobody_anything() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        with told(url) as (queue, site):
            begun = time.monotonic()
            lease = queue.completed()
            assert time.monotonic() - begun < 0.3
            wait_until(lambda: counts(site)["failed"] == 1)
            assert lease.request_id in site.warnings[-1]


def test_a_slow_receiver_is_given_up() -> None:
    with Receiver(delay_s=5) as receiver:
        begun = time.monotonic()
        with pytest.raises(DeliveryError, match="no answer within"):
            post(Endpoint(receiver.url, KEY), MESSAGE, {})
        assert time.monotonic() - begun < 1.5


def answering(*parts: bytes, every_s: float = 0.0) -> tuple[socket.socket, str]:
    """Return a server that answers the first connection with parts, one at a time, and then hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            for part in parts:
                connection.sendall(part)
                time.sleep(every_s)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):  # what is left unread would be answered with a reset
                pass

    threading.Thread(target=serve, daemon=True).start()
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_a_receiver_that_drips_is_given_up_as_well() -> None:
    listener, url = answering(*[b"H"] * 100, every_s=0.1)
    with listener:
        begun = time.monotonic()
        with pytest.raises(DeliveryError, match="no answer within"):
            post(Endpoint(url, KEY), MESSAGE, {})
        assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9\r\n", b"x" * 5000])
def test_what_speaks_no_http_is_said_to_and_not_tried_again(answer: bytes) -> None:
    listener, url = answering(answer)
    with listener, pytest.raises(DeliveryError, match="speaks no HTTP") as caught:
        post(Endpoint(url, KEY), MESSAGE, {})
    assert not caught.value.passes


def test_a_receiver_that_closes_without_a_word_is_tried_again() -> None:
    listener, url = answering()
    with listener, pytest.raises(DeliveryError, match="without an answer") as caught:
        post(Endpoint(url, KEY), MESSAGE, {})
    assert caught.value.passes


def test_what_a_slow_connection_takes_is_not_given_to_tls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(socket.socket):
        def connect(self, address: Any) -> None:
            time.sleep(0.8)
            super().connect(address)

    monkeypatch.setattr(webhook_client, "TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(socket, "socket", Slow)
        begun = time.monotonic()
        with pytest.raises(DeliveryError, match="no answer within"):
            post(Endpoint(f"https://127.0.0.1:{silent.getsockname()[1]}/", KEY), MESSAGE, {})
        assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize("host", ["[::1]", "[2001:db8::ab]"])
def test_a_numeric_address_of_the_new_kind_is_named_as_such(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it leads here is another matter: what is sent there must be good HTTP."""
    with Receiver() as receiver:
        address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", urlsplit(receiver.url).port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address])
        post(Endpoint(f"http://{host}/hook", KEY), MESSAGE, {})
        assert receiver.received[0].headers["host"] == host


@pytest.mark.parametrize("url", ["http://a..b/", "http://[2001:db8::ab/"])
def test_what_is_no_address_is_said_once_and_counted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with told("http://127.0.0.1:1/") as (queue, site):
        assert site.application.core.webhook is not None
        monkeypatch.setattr(site.application.core.webhook, "_endpoint", Endpoint(url, KEY))
        queue.completed()
        wait_until(lambda: counts(site)["failed"] == 1)
        assert len(site.warnings) == 1


def test_beyond_its_room_messages_are_dropped_counted_and_said() -> None:
    entered, released = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        entered.set()
        released.wait(10)

    site = MemorySite()
    request = site.application.core.index.get(Queue(site).completed().request_id)
    assert request is not None
    warnings: list[str] = []
    hook = Webhook(Endpoint("http://127.0.0.1/", KEY), hold, SystemClock(), warnings.append)
    stopping = threading.Event()
    thread = threading.Thread(target=hook.run, args=(stopping,))
    thread.start()
    hook.tell(None, request)
    assert entered.wait(5)
    for _ in range(CAPACITY + 3):
        hook.tell(None, request)
    assert hook.counts()["dropped"] == 3
    assert hook.waiting == CAPACITY
    assert "100 messages wait already" in warnings[0]
    stopping.set()
    released.set()
    thread.join(5)
    assert f"{CAPACITY} more ends" in warnings[-1]


def test_outcomes_are_metrics() -> None:
    with Receiver() as receiver, told(receiver.url) as (queue, site):
        queue.completed()
        wait_until(lambda: counts(site)["delivered"] == 1)
        text = site.call("GET", "/pathology/metrics").body.decode()
    assert 'pathology_webhook_messages_total{outcome="delivered"} 1' in text
    assert 'pathology_webhook_messages_total{outcome="dropped"} 0' in text
    assert "pathology_webhook_waiting 0" in text


def test_without_a_webhook_there_is_none() -> None:
    site = MemorySite()
    assert site.application.core.webhook is None
    assert b"webhook" not in site.call("GET", "/pathology/metrics").body


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, which makes a certificate: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    key, public = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", public], check=True, capture_output=True)
    return key, public


@contextmanager
def speaking_tls(receiver: Receiver, certificate: tuple[Path, Path]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    with receiver:
        receiver.speak_tls(context)
        yield receiver.url.replace("http://127.0.0.1", "https://localhost")


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: tuple[Path, Path]) -> None:
    receiver = Receiver()
    with speaking_tls(receiver, certificate) as url:
        with pytest.raises(DeliveryError, match="certificate"):
            post(Endpoint(url, KEY), MESSAGE, {})
        assert receiver.received == []


def test_a_private_authority_is_named_by_the_environment(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    with speaking_tls(receiver, certificate) as url:
        post(Endpoint(url, KEY), MESSAGE, {})
        assert receiver.received[0].body == MESSAGE.body
