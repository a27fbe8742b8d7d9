# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is read of the queue: lists, workers, models; and waiting for a change."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

from orthanc_plugin.fleet.workers import permits
from orthanc_plugin.presentation.list_filter import MAX_LIMIT, Filter, cursor_after
from orthanc_plugin.presentation.views import silent_member, worker_member
from orthanc_plugin.queue import values
from orthanc_plugin.queue.catalogue import Kind, kind_of
from orthanc_plugin.queue.leases import is_due, is_prefetched
from orthanc_plugin.queue.places import END, START
from orthanc_plugin.queue.values import AnalysisRequest

from .core import Core, find, starting


@dataclass(frozen=True)
class Page:
    """Some requests, and where the next page begins (None: there is none)."""

    requests: list[AnalysisRequest]
    cursor: str | None


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
    return Page(page, cursor_after(page[-1]) if len(found) > wanted.limit else None)


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
        return list(islice(due, MAX_LIMIT))


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
