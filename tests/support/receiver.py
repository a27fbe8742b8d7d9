# SPDX-License-Identifier: Apache-2.0
"""A server that takes a webhook's messages, on this machine, and answers as a test wants."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.loopback_server import LoopbackServer
from tests.support.wait import wait_until


@dataclass(frozen=True)
class Received:
    """One message as it arrived; header names in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Receiver(LoopbackServer):
    """Answers with `statuses` in turn, the last of them for ever, after `delay_s`."""

    statuses: list[int] = field(default_factory=lambda: [204])
    delay_s: float = 0.0
    location: str | None = None
    received: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, self.rfile.read(length)))
                time.sleep(receiver.delay_s)
                self.send_response(receiver.next_status())
                if receiver.location is not None:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        super().__init__(Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]

    def speak_tls(self, context: ssl.SSLContext) -> None:
        """Take connections by TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def next_status(self) -> int:
        """Return the status of the next answer."""
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    @property
    def url(self) -> str:
        """The address to configure."""
        return f"{super().url}/hook?from=orthanc"

    def wait_for(self, count: int, seconds: float = 10.0) -> list[Received]:
        """Return the messages once there are so many."""
        wait_until(
            lambda: len(self.received) >= count,
            seconds,
            lambda: f"{len(self.received)} of {count} messages arrived",
        )
        return self.received
