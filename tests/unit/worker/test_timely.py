# SPDX-License-Identifier: Apache-2.0
"""Answers that drip, lines that are slow: a call ends in time, and one that moves goes on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests

from tests.unit.worker.conftest import QUICK, Rig
from worker.api.calls import Retry
from worker.api.client import PluginClient
from worker.api.contract import Lease
from worker.api.timely import LEAST_RATE, TimelyBody
from worker.api.transport import body_of, make_session
from worker.errors import UnreachableError
from worker.serving.claims import Claimer
from worker.settings import Settings
from worker.settings_reading import load_settings

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n"
LEASE = Lease("0" * 32, 3, 60, 15, 15)


class Dripping:
    """A body of which a piece comes every so often, by a clock that moves with it."""

    def __init__(self, piece: bytes, every_s: float, pieces: int) -> None:
        self.piece, self.every_s, self.left, self.now = piece, every_s, pieces, 0.0
        self.is_closed = False

    def read1(self, _size: int, *, decode_content: bool | None) -> bytes:
        self.now += self.every_s
        self.left -= 1
        return self.piece if self.left >= 0 else b""

    def close(self) -> None:
        self.is_closed = True


def read(body: Dripping, patience_s: float) -> bytes:
    return b"".join(TimelyBody(body, patience_s, lambda: body.now).stream(1 << 20))


def test_a_body_that_comes_a_byte_at_a_time_is_given_up_and_its_connection_closed() -> None:
    body = Dripping(b" ", 0.5, pieces=100_000)
    with pytest.raises(requests.exceptions.ReadTimeout):
        read(body, patience_s=60)
    assert 60 < body.now < 61
    assert body.is_closed


def test_a_large_body_may_take_longer_as_long_as_it_moves() -> None:
    slow = Dripping(b"x" * LEAST_RATE, 1.0, pieces=500)
    assert len(read(slow, patience_s=2)) == 500 * LEAST_RATE
    with pytest.raises(requests.exceptions.ReadTimeout):
        read(Dripping(b"x" * LEAST_RATE, 1.5, pieces=500), patience_s=2)


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve each connection in a thread of its own, until the test ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def one(connection: socket.socket) -> None:
            try:
                serve(connection)
            except OSError:
                connection.close()

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


def drip(connection: socket.socket, head: bytes) -> None:
    connection.recv(1 << 16)
    connection.sendall(head)
    while True:
        time.sleep(0.05)
        connection.sendall(b" ")


def settings_of(url: str, **more: str) -> Settings:
    names = {"ORTHANC_URL": url, "ORTHANC_USER": "lab", "ORTHANC_PASSWORD": "x", "READ_TIMEOUT": "1"}
    return load_settings({**names, **more})


def test_no_call_outlasts_an_answer_that_drips() -> None:
    with listening(lambda connection: drip(connection, HEAD + b"\r\n")) as url:
        client = PluginClient(settings_of(url), None, retry=Retry(attempts=1))
        begun = time.monotonic()
        with pytest.raises(UnreachableError, match="no answer came in time"):
            client.health()
        assert 0.9 < time.monotonic() - begun < 3


def test_a_slides_bytes_do_not_drip_either() -> None:
    with listening(lambda connection: drip(connection, HEAD + b"\r\n")) as url, make_session(None) as session:
        begun = time.monotonic()
        with (
            pytest.raises(requests.exceptions.ReadTimeout),
            session.get(url, timeout=(1, 1), stream=True) as answer,
        ):
            list(answer.iter_content(1 << 20))
        assert time.monotonic() - begun < 3


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_connection_is_used_again_after_an_answer_that_was_read(*, is_chunked: bool) -> None:
    served: list[socket.socket] = []
    body = b"a slide's bytes" * 10_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    if is_chunked:
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk

    def keep_alive(connection: socket.socket) -> None:
        served.append(connection)
        while connection.recv(1 << 16):
            connection.sendall(answer)

    with listening(keep_alive) as url, make_session(None) as session:
        assert session.get(url, timeout=(5, 5)).content == body
        with session.get(url, timeout=(5, 5), stream=True) as streamed:
            assert body_of(streamed, len(body)) == body
        assert session.get(url, timeout=(5, 5)).content == body
        assert len(served) == 1


def test_a_body_that_is_shorter_or_longer_than_expected_is_given_as_it_came() -> None:
    def short(connection: socket.socket) -> None:
        while connection.recv(1 << 16):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshort")

    with listening(short) as url, make_session(None) as session:
        for expected in (3, 5, 9):
            with session.get(url, timeout=(5, 5), stream=True) as answer:
                assert body_of(answer, expected) == b"short"


def test_a_claim_whose_answer_never_even_begins_is_given_up_and_the_next_one_is_served(rig: Rig) -> None:
    request = rig.server.add_request()

    def clear_the_way() -> None:
        rig.environment["ORTHANC_URL"] = rig.server.url

    # A header without an end: each of its bytes comes in time, and a socket's time-out sees nothing amiss.
    with listening(lambda connection: drip(connection, HEAD + b"X-Filler: ")) as url:
        rig.environment.update(READ_TIMEOUT="1", CONNECT_TIMEOUT="1", ORTHANC_URL=url)
        claimer = Claimer(rig.client, rig.analyzer, lambda: False, clear_the_way)
        begun = time.monotonic()
        with pytest.raises(UnreachableError, match="never ends"):
            claimer.claim(0)
        assert 2.5 < time.monotonic() - begun < 5
        answer = claimer.claim(0)
    assert answer.claim is not None
    assert answer.claim.request_id == request.request_id


def test_an_upload_may_take_longer_than_connecting_as_long_as_it_moves() -> None:
    size = 24_000_000

    def take_slowly(connection: socket.socket) -> None:
        left, head = size, b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1 << 16)
        left -= len(head.partition(b"\r\n\r\n")[2])
        while left > 0:
            left -= len(connection.recv(1 << 16))
            time.sleep(0.004)
        answer = b'{"success": true, "artifact": {}}'
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))

    with listening(take_slowly) as url:
        settings = settings_of(url, CONNECT_TIMEOUT="1", READ_TIMEOUT="10")
        begun = time.monotonic()
        PluginClient(settings, None, retry=QUICK).put_artifact("r1", LEASE, "heatmap.png", b"x" * size)
        assert time.monotonic() - begun > 1.2


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_an_answer_that_is_cut_off_is_a_cut_line_and_no_shorter_answer(framing: bytes) -> None:
    def cut(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b'\r\n\r\n11\r\n{"success": true}\r\n')
        connection.shutdown(socket.SHUT_RDWR)

    with listening(cut) as url:
        client = PluginClient(settings_of(url), None, retry=Retry(attempts=1))
        with pytest.raises(UnreachableError, match="Cannot reach"):
            client.health()
