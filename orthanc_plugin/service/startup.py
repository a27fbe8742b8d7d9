# SPDX-License-Identifier: AGPL-3.0-or-later
"""After a start: the open requests first, then all the others."""

from __future__ import annotations

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.queue import values

from .announce import announced, at_risk
from .changes import find_lost, series_changed_unseen
from .clockwork import carry_over_all, finish_leftovers
from .core import Core
from .orphans import delete_orphans


def load_open(core: Core) -> None:
    """Read the series that are listed as open; afterwards the queue answers.

    Raises
    ------
    StorageError
        Where Orthanc cannot read what it keeps beside the series: open ones, copies, drained workers.
    """
    core.workers.drained()
    copied = core.copies.of_series() if core.overwrites else {}
    for series_id in {**dict.fromkeys(core.listed.read()), **copied}:
        _load(core, series_id)
    find_lost(core, copied.keys() - core.ready.unread)
    carry_over_all(core)
    core.ready.open_known.set()
    finish_leftovers(core)


def load_all(core: Core) -> None:
    """Read the requests of every series; afterwards lists are complete and an unknown request is a 404.

    Raises
    ------
    StorageError
        Where Orthanc cannot list its series.
    """
    for series_id in core.gateway.list_series():
        if core.ready.stopping.is_set():
            return
        _load(core, series_id)
    core.ready.all_known.set()
    core.claims.assign()
    _copy_open(core)
    for series_id in sorted(core.index.known_series()):
        if core.ready.stopping.is_set():
            return
        _delete_orphans(core, series_id)
        _look_for_changes(core, series_id)


def load_unread(core: Core) -> None:
    """Try again to read what could not be read before."""
    unread = sorted(core.ready.unread)
    for series_id in unread:
        _load(core, series_id)
    if unread:
        _copy_open(core)


def _copy_open(core: Core) -> None:
    """Keep copies of open requests of a time when none were kept, or when their slide had several files."""
    if not core.overwrites:
        return
    try:
        copied = {copy.request_id for copies in core.copies.of_series().values() for copy in copies}
        still_open = [request for status in values.OPEN for request in core.index.with_status(status)]
        lacking = at_risk(core, (request for request in still_open if request.request_id not in copied))
        with announced(core, lacking, lacking):
            pass
    except (StorageError, ApiError) as error:
        core.warn(f"Not every open request has a copy yet that outlives its slide: {error}")


def _load(core: Core, series_id: str) -> None:
    was_unread = series_id in core.ready.unread
    try:
        core.store.load_stored(series_id)
        if was_unread:
            find_lost(core, [series_id])
        core.ready.unread.discard(series_id)
    except (StorageError, ApiError) as error:
        core.ready.unread.add(series_id)
        if not was_unread:  # else it has been said
            core.warn(f"The requests of series {series_id} could not be read yet: {error}")


def _delete_orphans(core: Core, series_id: str) -> None:
    try:
        delete_orphans(core, series_id)
    except (StorageError, ApiError) as error:
        core.warn(f"What was left over of results at series {series_id} could not be deleted: {error}")


def _look_for_changes(core: Core, series_id: str) -> None:
    try:
        series_changed_unseen(core, series_id)
    except (StorageError, ApiError) as error:
        core.warn(f"Whether the slide {series_id} is still what was analysed could not be seen: {error}")
