# SPDX-License-Identifier: AGPL-3.0-or-later
"""One attempt to deliver a message: to the configured address and nowhere else, within a few seconds.

No redirect is followed, no proxy is taken from the environment, no scheme but http and https is known: the
address comes from the configuration, and what answers there cannot send the plugin elsewhere.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from . import __version__
from .errors import PluginError

TIMEOUT_S = 5.0
"""For connecting, TLS, sending and the first line of the answer together; looking up the name comes before.

The system's resolver has limits of its own, which nothing here can shorten.
"""

_PORTS = {"http": 80, "https": 443}
_Address = tuple[int, int, int, str, Any]
"""As `socket.getaddrinfo` returns them."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_LONGEST_STATUS_LINE = 1024


class DeliveryError(PluginError):
    """A message did not arrive; `passes` says whether a later attempt may help."""

    def __init__(self, message: str, *, passes: bool) -> None:
        super().__init__(message)
        self.passes = passes


@dataclass(frozen=True)
class Endpoint:
    """Where messages go, and what signs them."""

    url: str
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Message:
    """One message; a repeated attempt has the same `message_id`."""

    message_id: str
    body: bytes


def post(endpoint: Endpoint, message: Message, signature: Mapping[str, str]) -> None:
    """Deliver a message.

    Raises
    ------
    DeliveryError
        Where the receiver did not answer with a success in time.
    """
    try:
        status = _answer(urlsplit(endpoint.url), message, signature)
    except (TimeoutError, socket.timeout) as error:
        raise DeliveryError(f"no answer within {TIMEOUT_S:g} s.", passes=True) from error
    except OSError as error:
        raise DeliveryError(f"{error}.", passes=True) from error
    except (ValueError, http.client.HTTPException) as error:
        raise DeliveryError(
            "nothing can be sent to this address: correct Pathology.Webhook.Url.", passes=False
        ) from error
    _judge(status)


def _answer(parts: SplitResult, message: Message, signature: Mapping[str, str]) -> int:
    addresses = _addresses(parts)
    deadline = time.monotonic() + TIMEOUT_S
    with _connected(addresses, deadline) as plain, _secured(plain, parts, deadline) as connection:
        connection.settimeout(_left(deadline))
        _send(connection, parts, message, signature)
        return _status(connection, deadline)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left


def _addresses(parts: SplitResult) -> Sequence[_Address]:
    port = parts.port or _PORTS[parts.scheme]
    return socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)


def _connected(addresses: Sequence[_Address], deadline: float) -> socket.socket:
    failure: OSError = OSError("the host has no address")
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_left(deadline))
            connection.connect(address)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def _secured(connection: socket.socket, parts: SplitResult, deadline: float) -> socket.socket:
    """Speak TLS and check the certificate; `SSL_CERT_FILE` names a private authority, as OpenSSL has it."""
    if parts.scheme != "https":
        return connection
    connection.settimeout(_left(deadline))
    return ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname)


def _send(
    connection: socket.socket, parts: SplitResult, message: Message, signature: Mapping[str, str]
) -> None:
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    host = str(parts.hostname)
    request = http.client.HTTPConnection(f"[{host}]" if ":" in host else host, parts.port)
    request.sock = connection
    headers = {
        **signature,
        "Content-Type": "application/json",
        "User-Agent": f"orthanc-pathology/{__version__}",
        "Connection": "close",
    }
    request.request("POST", target, message.body, headers)


def _status(connection: socket.socket, deadline: float) -> int:
    """Read the first line of the answer; the rest of it is nobody's business."""
    received = b""
    while b"\n" not in received and len(received) < _LONGEST_STATUS_LINE:
        connection.settimeout(_left(deadline))
        part = connection.recv(_LONGEST_STATUS_LINE)
        if not part:
            break
        received += part
    if not received:
        raise DeliveryError("it closed the connection without an answer.", passes=True)
    match = _STATUS_LINE.match(received)
    if match is None:
        raise DeliveryError("what answers there speaks no HTTP.", passes=False)
    return int(match[1])


def _judge(status: int) -> None:
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise DeliveryError(
            f"it answered {status}, and redirects are not followed: correct Pathology.Webhook.Url.",
            passes=False,
        )
    raise DeliveryError(f"it answered {status}.", passes=status >= 500 or status in {408, 425, 429})
