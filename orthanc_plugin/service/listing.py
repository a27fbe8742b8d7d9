# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is read of the queue: lists, workers, models; and waiting for a change."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import Any

from orthanc_plugin import values
from orthanc_plugin.catalogue import Kind, kind_of
from orthanc_plugin.fields import bad_field
from orthanc_plugin.http import parse_json
from orthanc_plugin.leases import is_due, is_prefetched
from orthanc_plugin.places import END, START, Place
from orthanc_plugin.values import AnalysisRequest
from orthanc_plugin.views import silent_member, worker_member
from orthanc_plugin.workers import permits

from .core import Core, find, starting

_DEFAULT_LIMIT = 100
_MAX_LIMIT = 1000
_FILTERS = {"status", "series", "study", "model", "since", "limit", "cursor", "order", "full"}


@dataclass(frozen=True)
class Filter:
    """Which requests a list shows; None leaves a member out of account.

    `since` is the earliest creation (seconds since the epoch), `passed` the last request of the page before.
    """

    statuses: frozenset[str] | None
    series: str | None
    study: str | None
    model: str | None
    since: float | None
    limit: int
    passed: Place | None
    newest_first: bool
    full: bool


@dataclass(frozen=True)
class Page:
    """Some requests, and where the next page begins (None: there is none)."""

    requests: list[AnalysisRequest]
    cursor: str | None


def parse_filter(query: Mapping[str, str]) -> Filter:
    """Return the filter that a query asks for.

    Raises
    ------
    ApiError
        400 naming the parameter that is unknown or has a bad value.
    """
    for name in query:
        if name not in _FILTERS:
            raise bad_field(name[:100], f"one of the parameters {', '.join(sorted(_FILTERS))}")
    return Filter(
        statuses=_statuses(query.get("status")),
        series=query.get("series"),
        study=query.get("study"),
        model=query.get("model"),
        since=_since(query.get("since")),
        limit=_limit(query.get("limit")),
        passed=_passed(query.get("cursor")),
        newest_first=_newest_first(query.get("order", "oldest")),
        full=_full(query.get("full", "0")),
    )


def _statuses(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    wanted = frozenset(text.split(","))
    if not wanted <= set(values.STATUSES):
        raise bad_field("status", f"one or several (a,b) of {', '.join(values.STATUSES)}")
    return wanted


def _since(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise bad_field("since", "a time such as 2026-11-22T16:54:03.123Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


def _limit(text: str | None) -> int:
    if text is None:
        return _DEFAULT_LIMIT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _MAX_LIMIT:
        raise bad_field("limit", f"a whole number from 1 to {_MAX_LIMIT}")
    return int(text[:9])


def _full(text: str) -> bool:
    if text not in {"0", "1"}:
        raise bad_field("full", "0 or 1")
    return text == "1"


def _newest_first(text: str) -> bool:
    if text not in {"oldest", "newest"}:
        raise bad_field("order", "oldest or newest, whichever is to come first")
    return text == "newest"


def _passed(text: str | None) -> Place | None:
    if text is None:
        return None
    try:
        created, request_id = parse_json(base64.urlsafe_b64decode(text.encode("ascii")).decode("ascii"))
        place = float(created), str(request_id)
    except (ValueError, TypeError, OverflowError, binascii.Error):
        place = math.nan, ""
    if not math.isfinite(place[0]):
        raise bad_field("cursor", "the `next` of an earlier answer")
    return place


def _cursor(request: AnalysisRequest) -> str:
    text = json.dumps([request.created, request.request_id])
    return base64.urlsafe_b64encode(text.encode("ascii")).decode("ascii")


def list_requests(core: Core, wanted: Filter) -> Page:
    """Return a page of requests, ordered by creation and id, the oldest or the newest first.

    Raises
    ------
    ApiError
        503 while the requests of all series are still being read.
    """
    if not core.ready.all_known.is_set():
        raise starting()
    after, before = (START, wanted.passed or END) if wanted.newest_first else (wanted.passed or START, END)
    source = wanted.series if wanted.series is not None else wanted.study
    with core.index.lock:
        in_order = core.index.ordered(
            after=max(after, (wanted.since or 0.0, "")),
            before=before,
            newest_first=wanted.newest_first,
            source=source,
            holds=lambda kind: _holds(kind, wanted),
        )
        matching = (request for request in in_order if _matches(request, wanted))
        found = list(islice(matching, wanted.limit + 1))
    page = found[: wanted.limit]
    return Page(page, _cursor(page[-1]) if len(found) > wanted.limit else None)


def _holds(kind: Kind, wanted: Filter) -> bool:
    model, status = kind
    return wanted.model in {None, model} and (wanted.statuses is None or status in wanted.statuses)


def _matches(request: AnalysisRequest, wanted: Filter) -> bool:
    return (
        _holds(kind_of(request), wanted)
        and wanted.series in {None, request.series}
        and wanted.study in {None, request.study}
    )


def wait_for_change(core: Core, request_id: str, version: str | None, wait_s: float) -> bool:
    """Wait until a request differs from the version that a page has; False where the pool was full.

    Without a version nobody waits: the page has nothing yet.
    """
    find(core, request_id)
    if version is None:
        return True

    def has_changed() -> bool:
        return core.index.get(request_id) is None or core.index.version(request_id) != version

    return core.pages.wait_until(has_changed, wait_s)


def pending(core: Core) -> list[AnalysisRequest]:
    """Return what a worker could claim now, in its turn."""
    now = core.clock.now()
    with core.index.lock:
        due = (request for request in core.index.pending() if is_due(request, now))
        return list(islice(due, _MAX_LIMIT))


def wait_for_pending(core: Core, wait_s: float) -> bool:
    """Wait until there is something to claim; False where the pool was full."""

    def is_any_due() -> bool:
        now = core.clock.now()
        return any(is_due(request, now) for request in core.index.pending())

    return core.pages.wait_until(is_any_due, wait_s)


def requests_of_workers(core: Core) -> dict[str, str]:
    """Return the request that each busy worker is at; what it has fetched ahead is not begun."""
    return {
        request.grants[-1].worker_id: request.request_id
        for request in core.index.with_status(values.PROCESSING)
        if not is_prefetched(request)
    }


def workers(core: Core) -> list[dict[str, Any]]:
    """Return every worker heard of since the start, and what it is doing; then other drained ones."""
    working_on = requests_of_workers(core)
    drained, heard_of = core.workers.drained(), core.workers.all()
    silent = drained - {worker.worker_id for worker in heard_of}
    return [
        *(
            worker_member(
                worker,
                alive=core.workers.is_alive(worker),
                drain=worker.worker_id in drained,
                working_on=working_on.get(worker.worker_id),
                shared_name=core.workers.is_shared(worker),
            )
            for worker in heard_of
        ),
        *(silent_member(worker_id, working_on=working_on.get(worker_id)) for worker_id in sorted(silent)),
    ]


def models(core: Core) -> list[dict[str, Any]]:
    """Return the models that living workers offer and the site permits."""
    found: dict[tuple[str, str | None, str | None], list[str]] = {}
    for worker in core.workers.alive():
        for model in worker.models:
            if permits(core.settings, model):
                found.setdefault((model.name, model.version, model.sha256), []).append(worker.worker_id)
    return [
        {"name": name, "version": version, "sha256": sha256, "workers": sorted(offering)}
        for (name, version, sha256), offering in sorted(found.items(), key=str)
    ]
