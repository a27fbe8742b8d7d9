# SPDX-License-Identifier: Apache-2.0
"""Saying to whoever started this process that it is ready, alive and what it does: systemd's sd_notify.

The protocol is a datagram of ``NAME=value`` lines to the socket that ``NOTIFY_SOCKET`` names
(https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html). `supervisor` speaks the same
to the processes that it starts itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

READY = "READY=1"
ALIVE = "WATCHDOG=1"
STOPPING = "STOPPING=1"

Send = Callable[[bytes], None]


class Supervision(Protocol):
    """Whom the daemon tells how it is."""

    def ready(self) -> None:
        """Say that work is taken from now on."""
        ...

    def alive(self, doing: str) -> None:
        """Say that the loop still turns, and what it does."""
        ...

    def stopping(self) -> None:
        """Say that the end was asked for."""
        ...


class Unsupervised:
    """Nobody wants to know."""

    def ready(self) -> None:
        """Say nothing."""

    def alive(self, doing: str) -> None:
        """Say nothing."""

    def stopping(self) -> None:
        """Say nothing."""


@dataclass
class Notifier:
    """Tells systemd, or a supervisor that speaks its protocol.

    Parameters
    ----------
    send
        Sends one datagram.
    """

    send: Send
    _said: str = field(default="", init=False)
    _stopped: bool = field(default=False, init=False)

    def ready(self) -> None:
        """Say that work is taken from now on."""
        self.send(READY.encode())

    def alive(self, doing: str) -> None:
        """Say that the loop still turns; what it does is sent where it has changed."""
        lines = [ALIVE] if doing == self._said else [ALIVE, f"STATUS={doing}"]
        self._said = doing
        self.send("\n".join(lines).encode())

    def stopping(self) -> None:
        """Say once that the end was asked for."""
        if not self._stopped:
            self.send(STOPPING.encode())
        self._stopped = True


@dataclass
class AliveFile:
    """Touches a file, whose age a container's health check looks at.

    Parameters
    ----------
    path
        The file.
    """

    path: Path

    def ready(self) -> None:
        """Say that work is taken from now on."""
        self._touch()

    def alive(self, doing: str) -> None:  # noqa: ARG002 - a file's age is all that is looked at
        """Say that the loop still turns."""
        self._touch()

    def stopping(self) -> None:
        """Say nothing: the container ends with its process."""

    def _touch(self) -> None:
        with contextlib.suppress(OSError):
            self.path.touch()


def from_environment(environ: Mapping[str, str]) -> Supervision:
    """Return who is to be told: a socket, a container's file, or nobody."""
    if environ.get("NOTIFY_SOCKET"):
        return _of_socket(environ["NOTIFY_SOCKET"])
    if environ.get("ALIVE_FILE"):
        return AliveFile(Path(environ["ALIVE_FILE"]))
    return Unsupervised()


def _of_socket(address: str) -> Supervision:
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        return Unsupervised()
    # A name that begins with @ is one of Linux's abstract ones.
    target = "\0" + address[1:] if address.startswith("@") else address

    def send(message: bytes) -> None:
        # Who is told may be busy or gone: the work goes on all the same.
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.settimeout(0)
            sender.sendto(message, target)

    return Notifier(send)


def take_from_environment() -> Supervision:
    """Return who is to be told, and keep the socket's name from processes that this one starts."""
    supervision = from_environment(os.environ)
    os.environ.pop("NOTIFY_SOCKET", None)
    return supervision
