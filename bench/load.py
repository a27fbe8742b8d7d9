# SPDX-License-Identifier: Apache-2.0
"""Load on an HTTP server of the same machine: several kept connections, one exchange at a time on each.

All of them in one process, and a request in one packet, so that the load takes as little as possible of the
processors that the server is measured on.
"""

from __future__ import annotations

import base64
import re
import selectors
import socket
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ask:
    """A request: its method, its path and its JSON body."""

    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """Status and body."""

    status: int
    body: bytes


Exchange = Generator[Ask, Answer, None]
"""What one connection asks, one after the other; it yields a request and is sent the answer."""

_LENGTH = re.compile(rb"^content-length:\s*(\d+)\s*$", re.IGNORECASE | re.MULTILINE)
_SILENCE_S = 60.0
_CHUNK = 1 << 16


class _Connection:
    def __init__(self, port: int, head: str, exchange: Exchange) -> None:
        self._head = head
        self._exchange = exchange
        self._received = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def begin(self) -> bool:
        """Send the first request; False where there is none."""
        return self._send(None)

    def go_on(self) -> bool:
        """Take what has arrived; False where the exchange has ended."""
        arrived = self.socket.recv(_CHUNK)
        if not arrived:
            raise ConnectionError("the server closed a connection")
        self._received += arrived
        answer = _parse(self._received)
        if answer is None:
            return True
        self._received = b""
        return self._send(answer)

    def _send(self, answer: Answer | None) -> bool:
        try:
            ask = next(self._exchange) if answer is None else self._exchange.send(answer)
        except StopIteration:
            return False
        head = f"{ask.method} {ask.path} HTTP/1.1\r\n{self._head}Content-Length: {len(ask.body)}\r\n\r\n"
        self.socket.sendall(head.encode("ascii") + ask.body)
        return True


def _parse(received: bytes) -> Answer | None:
    """Return the answer, or None where a part of it is still to come."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    length = _LENGTH.search(head)
    if len(body) < (0 if length is None else int(length[1])):
        return None
    return Answer(int(head.split(b" ", 2)[1]), body)


def drive(port: int, user: tuple[str, str], exchanges: Iterable[Exchange]) -> float:
    """Run exchanges to their ends, each over a connection of its own; return the seconds that took.

    Parameters
    ----------
    port
        Where the server listens on 127.0.0.1.
    user
        Name and password.
    exchanges
        They end by themselves.

    Raises
    ------
    OSError
        Where the server closes a connection or says nothing for a minute.
    """
    secret = base64.b64encode(":".join(user).encode()).decode()
    head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Basic {secret}\r\nContent-Type: application/json\r\n"
    started = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for exchange in exchanges:
            connection = _Connection(port, head, exchange)
            if connection.begin():
                selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            ready = selector.select(_SILENCE_S)
            if not ready:
                raise TimeoutError("the server does not answer any more")
            for key, _ in ready:
                if not key.data.go_on():
                    selector.unregister(key.fileobj)
                    key.data.socket.close()
    return time.monotonic() - started
