# SPDX-License-Identifier: Apache-2.0
"""What a slide source is, and what it tells of itself when a slide was read."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from clam_core.slides import Slide
from worker.api.contract import Claim


class Traffic:
    """What was asked of a server for one slide; counted by several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._bytes = 0

    @property
    def requests(self) -> int:
        """Answered calls."""
        return self._requests

    @property
    def bytes(self) -> int:
        """Bytes in their answers."""
        return self._bytes

    def count(self, size: int) -> None:
        """Count an answer of so many bytes."""
        with self._lock:
            self._requests += 1
            self._bytes += size


@dataclass(frozen=True)
class SourceReport:
    """How a slide was read, and what it cost so far.

    Attributes
    ----------
    kind
        Stable name of the source.
    requests, bytes
        What crossed the network for the slide.
    notes
        Stable names of what is unusual about the slide's header and does not keep it from being read.
    """

    kind: str
    requests: int = 0
    bytes: int = 0
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the shape of a result's ``slide.source``."""
        return {
            "kind": self.kind,
            "requests": self.requests,
            "bytes": self.bytes,
            "notes": list(self.notes),
        }


@runtime_checkable
class Reporting(Protocol):
    """A slide that knows how it is read."""

    def source_report(self) -> SourceReport:
        """Say how the slide was read, and what it cost so far."""
        ...


class Verified:
    """A slide whose every byte is seen to be of the files that were claimed: reading another one fails.

    What is computed of it may be kept under the claim's fingerprint. A slide without this may have been
    replaced while it was read, and its features would then be known as those of the one before.
    """


class SlideSource(Protocol):
    """A way to a claimed request's slide."""

    @property
    def name(self) -> str:
        """Name for the log."""
        ...

    @property
    def cost(self) -> str:
        """What this way costs beside the best one, as the end of a sentence."""
        ...

    def open(self, claim: Claim) -> Slide:
        """Open the slide.

        Raises
        ------
        WayMissingError
            If the server does not offer this way: the next source may be asked.
        SlideError
            If the slide cannot be read this way.
        """
        ...
