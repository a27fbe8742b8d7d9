# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where requests stand in lists, and lists that stay in order."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from .values import AnalysisRequest

Place = tuple[float, str]
"""Where a request stands in a list: its creation (seconds since the epoch) and its id."""

START: Place = (0.0, "")
END: Place = (math.inf, "")


def place_of(request: AnalysisRequest) -> Place:
    """Return where a request stands in a list."""
    return (request.created, request.request_id)


class Ordered(list):  # type: ignore[type-arg]
    """A list that stays in order; keys are unique."""

    def add(self, key: tuple[object, ...]) -> None:
        """Put a key in its place."""
        insort(self, key)

    def discard(self, key: tuple[object, ...]) -> None:
        """Take a key out, where it is there."""
        position = bisect_left(self, key)
        if position < len(self) and self[position] == key:
            del self[position]

    def before(self, key: tuple[object, ...]) -> int:
        """Return how many keys come before one."""
        return bisect_left(self, key)

    def between(self, after: Place, before: Place, *, newest_first: bool) -> Iterator[Place]:
        """Yield the places between two."""
        numbers = range(bisect_right(self, after), bisect_left(self, before))
        return (self[number] for number in (reversed(numbers) if newest_first else numbers))
