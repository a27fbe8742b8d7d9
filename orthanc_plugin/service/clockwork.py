# SPDX-License-Identifier: AGPL-3.0-or-later
"""What happens by itself: leases run out, waiting requests become due, what was left is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from orthanc_plugin.errors import ApiError, BusyError, StorageError
from orthanc_plugin.queue import values
from orthanc_plugin.queue.leases import expired
from orthanc_plugin.queue.lifecycle import is_to_be_deleted
from orthanc_plugin.queue.values import AnalysisRequest

from .announce import prune_copies
from .changes import carry_over_unwritten, series_deleted
from .core import Core
from .publish import alone, delete_result, delete_unpublished, publish
from .transact import change_request

TICK_S = 0.5
_FAILED_EXPIRY_S = 5.0
LEFTOVERS_EVERY = 20
"""Ticks between two looks at what was left unfinished: 10 s."""
_MOST_SAID = 10_000


def tick(core: Core) -> None:
    """End the leases that have run out, and hand out what has become due."""
    for request in core.index.overdue(core.clock.monotonic()):
        if not _attempt(core, request.request_id, lambda item: _expire(core, item)):
            again_at = core.clock.monotonic() + _FAILED_EXPIRY_S
            core.index.renew(request.request_id, request.fence, again_at, core.index.live(request.request_id))
    core.claims.assign()
    core.pages.look_again()


def _expire(core: Core, request: AnalysisRequest) -> None:
    def change(current: AnalysisRequest) -> AnalysisRequest:
        lease = core.index.lease(current.request_id)
        if lease is None or lease.expires_at > core.clock.monotonic():
            return current
        return expired(current, core.clock.now(), retry_s=core.settings.retry_s, jitter=core.clock.jitter())

    change_request(core, request.request_id, change)


def finish_leftovers(core: Core) -> None:
    """Read, carry over, publish and delete what could not be, and shorten the list of open series."""
    core.store.read_again()
    carry_over_all(core)
    for request in core.index.with_status(values.PUBLISHING):
        _attempt(core, request.request_id, lambda item: _alone(core, item.request_id, publish))
    for request in core.index.with_status(values.WITHDRAWN):
        if is_to_be_deleted(request):
            _attempt(core, request.request_id, lambda item: _alone(core, item.request_id, delete_result))
    _delete_unpublished(core)
    with _told_once(core, "lists", "The lists of what is open could not be shortened", StorageError):
        core.listed.prune(lambda: _series_that_may_be_open(core))
        prune_copies(core)


@contextmanager
def _told_once(core: Core, of: str, sentence: str, *failures: type[Exception]) -> Iterator[None]:
    """Pass over what fails, with a line of the log: the sentence, and why."""
    try:
        yield
    except BusyError:
        raise  # nothing has failed
    except failures as error:
        _say(core, of, f"{sentence}: {error}")
    else:
        core.said.pop(of, None)


def _say(core: Core, of: str, sentence: str) -> None:
    """Log what goes wrong at each look, as while a disk is full, but once until it ends or changes."""
    if core.said.get(of) != sentence:
        core.said[of] = sentence
        core.warn(sentence)
    if len(core.said) > _MOST_SAID:  # another call may have done what is still noted here
        core.said.pop(next(iter(core.said)), None)


def _series_that_may_be_open(core: Core) -> set[str]:
    # First of all: what is found to be written is in the index before it is no longer in doubt.
    in_doubt = {request.series for request in core.store.in_doubt() if request.is_open}
    return in_doubt | core.index.open_series() | core.ready.unread


def carry_over_all(core: Core) -> None:
    """Write the requests again that went with a slide, wherever that has not been done or did not work."""
    for series_id in tuple(core.replaced_unwritten):
        _carry_over(core, series_id)


def _carry_over(core: Core, series_id: str) -> None:
    sentence = f"The requests of series {series_id}, deleted or stored again, are seen to later"
    with _told_once(core, series_id, sentence, StorageError, ApiError):
        carry_over_unwritten(core, series_id)


def _alone(core: Core, request_id: str, action: Callable[[Core, str], None]) -> None:
    with alone(core, request_id):
        action(core, request_id)


def _delete_unpublished(core: Core) -> None:
    sentence = "What is to be deleted of unfinished DICOM results could not be read yet"
    with _told_once(core, "unfinished", sentence, StorageError):
        for request_id in core.unpublished.requests():
            _delete_unpublished_of(core, request_id)


def _delete_unpublished_of(core: Core, request_id: str) -> None:
    sentence = f"The DICOM results of request {request_id} are looked at again later"
    with suppress(BusyError), _told_once(core, f"{request_id} results", sentence, StorageError, ApiError):
        _alone(core, request_id, delete_unpublished)


def _attempt(core: Core, request_id: str, action: Callable[[AnalysisRequest], None]) -> bool:
    request = core.index.get(request_id)
    if request is None:
        core.said.pop(request_id, None)
        return True
    try:
        action(request)
    except BusyError:
        return True  # whoever is at it sees to it
    except (StorageError, ApiError) as error:
        if isinstance(error, ApiError) and error.status == 410:
            return _attempt(core, request_id, lambda item: series_deleted(core, item.series))
        _say(core, request_id, f"Request {request_id} ({request.status}) is tried again later: {error}")
        return False
    core.said.pop(request_id, None)
    return True
