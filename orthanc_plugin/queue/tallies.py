# SPDX-License-Identifier: AGPL-3.0-or-later
"""What has happened since the start, counted: transitions, leases that ran out, seconds per stage."""

from __future__ import annotations

import re
import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import values
from .values import AnalysisRequest, Event

EVENTS = (
    "submitted",
    "claimed",
    "confirmed",
    "begun",
    "resumed",
    values.DELIVERED,
    values.COMPLETED,
    values.FAILED,
    "requeued",
    values.UNCONFIRMED,
    values.HANDED_BACK,
    values.SERIES_CHANGED,
    values.SOURCE_REPLACED,
    values.SLIDE_CHANGED,
    "cancel_requested",
    values.CANCELLED,
    "retried",
    values.WITHDRAWN,
    "reviewed",
)
"""What a line of a history can be. Each is counted from 0: of a counter that begins with its first event a
monitor takes the first for nothing."""

_STAGE = re.compile(r"[a-z][a-z0-9_]{0,29}")
_MOST_STAGES = 30
"""Stages are named by workers; beyond so many names further ones are left out."""
_DURATIONS_KEPT = 20
_LONGEST_S = 7 * 86400.0
_ENDED_BY_TIME = frozenset({values.EXPIRED, values.UNCONFIRMED})


@dataclass(frozen=True)
class Seconds:
    """Durations of one stage: how many, and their sum in seconds."""

    count: int = 0
    total: float = 0.0


class Tallies:
    """Counters that only grow; a restart of Orthanc begins them anew, as Prometheus expects."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._transitions = Counter(dict.fromkeys(EVENTS, 0))
        self._lost_leases: Counter[str] = Counter()
        self._stages: dict[str, Seconds] = {}
        self._durations: dict[str, deque[float]] = {}

    def transition(
        self, before: AnalysisRequest | None, after: AnalysisRequest, events: tuple[Event, ...]
    ) -> None:
        """Count what became of a request with one write, which added `events` to its history."""
        if not events:
            return
        with self._lock:
            for event in events:
                self._transitions[event.event] += 1
            grant = after.grant
            if grant is None:
                return
            if after.status == values.COMPLETED and events[-1].event == values.COMPLETED:
                known = self._durations.setdefault(grant.model.name, deque(maxlen=_DURATIONS_KEPT))
                known.append(max(0.0, events[-1].at - grant.granted))
            was_open = before is not None and before.grant is not None and before.grant.outcome is None
            if was_open and grant.outcome in _ENDED_BY_TIME:
                self._lost_leases[str(grant.outcome)] += 1

    def timings(self, timings_s: Any) -> None:
        """Add the ``timings_s`` of a result; what is no duration is passed over."""
        if not isinstance(timings_s, Mapping):
            return
        with self._lock:
            for stage, seconds in timings_s.items():
                self._add(stage, seconds)

    def _add(self, stage: Any, seconds: Any) -> None:
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds <= _LONGEST_S or _STAGE.fullmatch(str(stage)) is None:
            return
        known = self._stages.get(stage)
        if known is None and len(self._stages) >= _MOST_STAGES:
            return
        old = known or Seconds()
        self._stages[stage] = Seconds(old.count + 1, old.total + float(seconds))

    def mean_duration(self, model: str | None) -> float | None:
        """Return the mean seconds from lease to result of a model's latest requests (None: of all models)."""
        with self._lock:
            names = list(self._durations) if model is None else [model]
            latest = [seconds for name in names for seconds in self._durations.get(name, ())]
        return sum(latest) / len(latest) if latest else None

    def transitions(self) -> dict[str, int]:
        """Return how often each event of a history has happened."""
        with self._lock:
            return dict(self._transitions)

    def lost_leases(self) -> dict[str, int]:
        """Return how many leases ran out after their first heartbeat (``expired``) and before it."""
        with self._lock:
            return {outcome: self._lost_leases[outcome] for outcome in sorted(_ENDED_BY_TIME)}

    def stages(self) -> dict[str, Seconds]:
        """Return the durations of every stage."""
        with self._lock:
            return dict(self._stages)
