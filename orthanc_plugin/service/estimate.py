# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long a request is likely to wait: from what the latest ones took, who is alive and what is ahead."""

from __future__ import annotations

from orthanc_plugin.fleet.workers import Worker, model_for
from orthanc_plugin.queue import values
from orthanc_plugin.queue.leases import is_prefetched
from orthanc_plugin.queue.values import AnalysisRequest

from .core import Core


def likely_wait(ahead: int, busy: int, workers: int, mean_s: float) -> float:
    """Return the seconds until a request is likely to be begun.

    Parameters
    ----------
    ahead
        Requests that have the turn before it.
    busy
        Workers that are at one; each is taken to be half done.
    workers
        Workers that could take it, at least one.
    mean_s
        What a request takes.
    """
    waves = ahead - (workers - min(busy, workers))
    return 0.0 if waves < 0 else round((waves + 0.5) * mean_s / workers, 1)


def estimated_wait(core: Core, request: AnalysisRequest) -> float | None:
    """Return the seconds that a pending request is likely to wait; None where nothing tells.

    Nothing tells while no worker that offers its model is alive, and until one of that model has been
    completed since Orthanc's start.
    """
    if request.status != values.PENDING:
        return 0.0
    able = [worker for worker in core.workers.alive() if _can_do(core, worker, request)]
    mean_s = core.tallies.mean_duration(request.model)
    if not able or mean_s is None:
        return None
    names = {worker.worker_id for worker in able}
    held = core.index.with_status(values.PROCESSING)
    busy = len({item.grants[-1].worker_id for item in held if not is_prefetched(item)} & names)
    return likely_wait(_ahead(core, able, request), busy, len(able), mean_s)


def _can_do(core: Core, worker: Worker, request: AnalysisRequest) -> bool:
    return model_for(request, worker.models, worker.default_model, core.settings) is not None


def _ahead(core: Core, able: list[Worker], request: AnalysisRequest) -> int:
    """Return how many requests have the turn before one with the same workers."""

    def is_theirs(other: AnalysisRequest) -> bool:
        return any(_can_do(core, worker, other) for worker in able)

    with core.index.lock:
        waiting = core.index.pending_before(request, is_theirs)
        return waiting + sum(map(is_theirs, core.index.prefetched()))
