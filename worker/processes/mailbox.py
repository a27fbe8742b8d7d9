# SPDX-License-Identifier: Apache-2.0
"""Where the processes of a supervisor say that they are alive: the receiving end of `notify`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

_LONGEST_MESSAGE = 4096


class Mailbox(Protocol):
    """Takes what one process says."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What that process must know to say it."""
        ...

    def read(self) -> set[str]:
        """Return the lines that have arrived since the last look."""
        ...


class _NoMailbox:
    """On a system without sockets of this kind nobody can say anything."""

    environment: Mapping[str, str] = {}

    def read(self) -> set[str]:
        """Return nothing."""
        return set()


class _SocketMailbox:
    def __init__(self, receiver: socket.socket, path: Path) -> None:
        self._receiver = receiver
        self.environment: Mapping[str, str] = {"NOTIFY_SOCKET": str(path)}

    def read(self) -> set[str]:
        """Return the lines that have arrived since the last look."""
        lines: set[str] = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                lines.update(self._receiver.recv(_LONGEST_MESSAGE).decode("utf-8", "replace").splitlines())
        return lines


@contextlib.contextmanager
def open_mailbox(path: Path) -> Iterator[Mailbox]:
    """Open a mailbox at a path that is free."""
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        yield _NoMailbox()
        return
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(0)
        yield _SocketMailbox(receiver, path)
