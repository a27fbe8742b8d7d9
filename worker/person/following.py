# SPDX-License-Identifier: Apache-2.0
"""Following a request as a person: which one is meant, how far it is, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from worker.api.client import PluginClient
from worker.api.contract import OPEN_STATES
from worker.backoff import Backoff
from worker.errors import BusyError, ForeignAnswerError, SubmitError, UnreachableError
from worker.progress import ProgressView
from worker.stages import Position, position_in

_FOLLOW_S = 25.0
_ID_DIGITS = 32
_LOOKED_THROUGH = 1000
"""So many of the latest requests are searched for the beginning of an id: one page of the list."""


def whole_id(client: PluginClient, text: str) -> str:
    """Return the id of the request that a person means by its beginning, such as the log shows.

    Raises
    ------
    SubmitError
        If none of the latest requests begins so, or several do.
    """
    if len(text) >= _ID_DIGITS:
        return text
    latest = client.list_requests({"limit": str(_LOOKED_THROUGH), "order": "newest"}).get("requests", [])
    found = [str(one["request_id"]) for one in latest if str(one["request_id"]).startswith(text)]
    if not found:
        raise SubmitError(
            f"None of the latest requests has an id that begins with {text}: give the whole id."
        )
    if len(found) > 1:
        raise SubmitError(f"Several requests begin with {text}, give more of it: {', '.join(found[:5])}.")
    return found[0]


def follow(
    client: PluginClient,
    request: Mapping[str, Any],
    view: ProgressView,
    *,
    timeout_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Follow a request until it ends, held by the server between changes.

    Parameters
    ----------
    client
        Acts as the person.
    request
        The request as the submission answered it.
    view
        Shows the progress.
    timeout_s
        Seconds to follow at most, or None.
    clock, sleep
        Monotonic seconds, and waiting.

    Raises
    ------
    SubmitError
        If it has not ended in time.
    """
    request_id, current = str(request["request_id"]), dict(request)
    give_up_at = None if timeout_s is None else clock() + timeout_s
    backoff, failures = Backoff(base_s=1.0, cap_s=15.0), 0
    while current["status"] in OPEN_STATES:
        view.show(position_of(current))
        if give_up_at is not None and clock() > give_up_at:
            raise SubmitError(
                f"Request {request_id} is still {current['status']} and goes on: "
                f"see `pathology-worker status {request_id}`."
            )
        asked_at = clock()
        hold_s = _FOLLOW_S if give_up_at is None else max(0.0, min(_FOLLOW_S, give_up_at - asked_at))
        try:
            fresh = client.get_request(request_id, wait_s=hold_s, version=current.get("version"))
        except (UnreachableError, ForeignAnswerError, BusyError):
            view.show(Position("waiting for Orthanc to answer again", _progress(current)))
            sleep(backoff.delay(failures))
            failures += 1
            continue
        failures = 0
        if fresh.get("version") == current.get("version") and clock() - asked_at < 1.0:
            # All the server's places for waiting are taken: it answers at once instead.
            sleep(backoff.delay(1, 0.5))
        current = fresh
    # The answer of a submission that repeats a finished one may lack the result.
    return current if "result" in current else client.get_request(request_id)


def position_of(request: Mapping[str, Any]) -> Position:
    """Return how far a request is, as the server tells."""
    match str(request["status"]):
        case "pending":
            return Position(waiting_words(request))
        case "publishing":
            return position_in("publish", 1.0)
    return Position(str(request.get("stage") or "open"), _progress(request), str(request.get("detail") or ""))


def waiting_words(request: Mapping[str, Any]) -> str:
    """Return what a pending request waits for."""
    if request.get("waits_for") == "slide":
        return "waiting for the rest of the slide"
    if request.get("waits_for") == "retry":
        return "waiting for the next attempt"
    return "waiting for a worker"


def _progress(request: Mapping[str, Any]) -> float:
    value = request.get("progress")
    return float(value) if isinstance(value, int | float) else 0.0
