# SPDX-License-Identifier: Apache-2.0
"""A proxy that loses requests, loses answers or their second half, delays and repeats."""

from __future__ import annotations

import http.client
import random
import socket
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.support.loopback_server import LoopbackServer

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
TIMEOUT_S = 40.0


@dataclass
class Mood:
    """How often, of all requests (0 to 1), each fault happens; `delay_s` at most."""

    lose_request: float = 0.0
    lose_answer: float = 0.0
    cut_answer: float = 0.0
    repeat: float = 0.0
    delay: float = 0.0
    delay_s: float = 1.0


class FaultyProxy(LoopbackServer):
    """Passes requests on to `url` as long as its mood lets it; every client's connection is used once.

    Attributes
    ----------
    mood
        May be replaced at any time.
    faults
        How often each fault happened.
    """

    def __init__(self, url: str) -> None:
        self.mood = Mood()
        self.faults: Counter[str] = Counter()
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._upstream = (parts.hostname, parts.port)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _pass(self) -> None:
                proxy.pass_on(self)

            do_GET = do_POST = do_PUT = do_DELETE = _pass  # noqa: N815 - the base class looks for these names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
                """Say nothing."""

        super().__init__(Handler)

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        """Serve one request, or fail to."""
        body = self.received(handler)
        mood, dice = self.mood, random.random
        if dice() < mood.delay:
            self.faults["delay"] += 1
            time.sleep(random.uniform(0, mood.delay_s))
        if dice() < mood.lose_request:
            self._cut(handler, "lose_request")
            return
        try:
            if dice() < mood.repeat:
                self.faults["repeat"] += 1
                self._ask(handler, body)
            status, headers, content = self._ask(handler, body)
        except (OSError, http.client.HTTPException):
            self._cut(handler, "upstream")
            return
        if dice() < mood.lose_answer:
            self._cut(handler, "lose_answer")
            return
        cut = len(content) > 1 and dice() < mood.cut_answer
        try:
            self.answer(handler, status, headers, content, sent=len(content) // 2 if cut else len(content))
        except OSError:
            self.faults["client_gone"] += 1
            return
        if cut:
            self._cut(handler, "cut_answer")

    def received(self, handler: BaseHTTPRequestHandler) -> bytes:
        """Return the body of a request."""
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

    def _cut(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        self.faults[fault] += 1
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    def _ask(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=TIMEOUT_S)
        try:
            headers = {
                name: value for name, value in handler.headers.items() if name.lower() not in HOP_BY_HOP
            }
            connection.request(handler.command, handler.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    @staticmethod
    def answer(
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        sent: int,
    ) -> None:
        """Send an answer's head and so many bytes of its content."""
        handler.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP:
                handler.send_header(name, value)
        if status not in {204, 304}:
            handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:sent])
