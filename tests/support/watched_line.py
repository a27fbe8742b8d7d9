# SPDX-License-Identifier: Apache-2.0
"""The line between a worker and Orthanc: what the worker sends is kept, and some of it may be withheld."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from tests.support.faulty_proxy import FaultyProxy

ONLY_WHOLE_FILES = r"/ranges$|/frames$"
"""Withheld, this leaves a worker the download of whole files, where Orthanc speaks no DICOMweb."""


@dataclass(frozen=True)
class Sent:
    """One request of the worker: its line and headers without the password, and its body."""

    path: str
    head: bytes
    body: bytes


class WatchedLine(FaultyProxy):
    """Passes on everything but requests whose path fits `withheld`.

    Attributes
    ----------
    sent
        Everything that arrived, in order.
    withheld
        A pattern of paths, and the status that is answered in their place.
    """

    def __init__(self, url: str, withheld: tuple[str, int] | None = None) -> None:
        super().__init__(url)
        self.sent: list[Sent] = []
        self.withheld = withheld

    def pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        """Keep a copy, and answer in Orthanc's place or let it answer."""
        del handler.headers["Range"]  # Orthanc 1.12.5 and newer would give parts of files
        withheld = self.withheld
        if withheld is None or re.search(withheld[0], handler.path) is None:
            super().pass_on(handler)
            return
        self.received(handler)
        # As Orthanc says it: what is not in its words counts for a proxy's, and is asked for again.
        text = json.dumps({"HttpStatus": withheld[1], "Message": "The test withholds it."}).encode()
        self.answer(handler, withheld[1], [("Content-Type", "application/json")], text, sent=len(text))

    def received(self, handler: BaseHTTPRequestHandler) -> bytes:
        """Read a request's body, and keep the request."""
        body = super().received(handler)
        head = "\n".join(
            f"{name}: {value}" for name, value in handler.headers.items() if name != "Authorization"
        )
        self.sent.append(Sent(handler.path, f"{handler.path}\n{head}".encode(), body))
        return body

    def sent_to(self, route: str) -> list[Sent]:
        """Return what arrived on a route (a part of its path)."""
        return [sent for sent in list(self.sent) if route in sent.path]
