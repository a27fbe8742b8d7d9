# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a restart must know of a request before it is written: its series, and a copy beside its slide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from orthanc_plugin.errors import StorageError
from orthanc_plugin.gateway import SeriesInfo
from orthanc_plugin.queue.lifecycle import as_submitted
from orthanc_plugin.queue.values import AnalysisRequest

from .core import Core, has_ended, unavailable


@contextmanager
def announced(
    core: Core, requests: Iterable[AnalysisRequest], copied: Iterable[AnalysisRequest]
) -> Iterator[None]:
    """Let a restart know of requests that are written within: of their series, and of copies of some of them.

    Raises
    ------
    ApiError
        503 where Orthanc cannot write.
    """
    copies = [as_submitted(request) for request in copied] if core.overwrites else []
    try:
        try:
            core.listed.add([request.series for request in requests])
            if copies:
                core.copies.keep(copies)
        except StorageError as error:
            raise unavailable(error) from error
        yield
    finally:
        if copies:
            core.copies.release([copy.request_id for copy in copies])
            drop_copies(core, *(copy.series for copy in copies))


def at_risk(core: Core, requests: Iterable[AnalysisRequest]) -> list[AnalysisRequest]:
    """Return the requests whose slide takes them along where it is stored again: those on one of one file.

    Raises
    ------
    StorageError
        Where Orthanc cannot read.
    """
    if not core.overwrites:
        return []
    return [request for request in requests if has_one_file(core.gateway.series(request.series))]


def has_one_file(series: SeriesInfo | None) -> bool:
    """Tell whether an Orthanc that overwrites replaces the whole series when a file of it is stored again."""
    return series is not None and len(series.instance_ids) == 1


def drop_copies(core: Core, *series_ids: str) -> None:
    """Drop the copies of what has ended, or was not written; where Orthanc fails, the next tick does."""
    try:
        prune_copies(core, series_ids)
    except StorageError as error:
        core.warn(f"The copies of requests that have ended are dropped later: {error}")


def prune_copies(core: Core, series_ids: Iterable[str] | None = None) -> None:
    """Drop the copies of what has ended, or was not written, on some series or on all.

    Raises
    ------
    StorageError
        Where Orthanc cannot read or write.
    """
    if core.overwrites:
        core.copies.prune(lambda request_id: has_ended(core, request_id), series_ids)
