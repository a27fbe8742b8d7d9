# SPDX-License-Identifier: AGPL-3.0-or-later
"""Under which numbers the files and records of results lie at a series: each given away once."""

from __future__ import annotations

from collections.abc import Iterable

from orthanc_plugin.errors import ApiError
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, replaced

LAST_NUMBER = 65535


def take_number(state: SeriesState) -> tuple[int, SeriesState]:
    """Return a fresh number for an attachment or record, and the state that has given it away.

    Raises
    ------
    ApiError
        413 where the series has used up its numbers.
    """
    if state.next_number > LAST_NUMBER:
        raise ApiError(413, "too_many_requests_on_series", "This series has no room for further results.")
    return state.next_number, replaced(state, next_number=state.next_number + 1)


def roomiest_number(first: int, taken: Iterable[int]) -> int:
    """Return where the longest row of numbers begins that are not taken.

    Ours follow one another; one that stands far from them, up to the last of all, is a site's.
    """
    held = {number for number in taken if first <= number <= LAST_NUMBER}
    edges = sorted({first - 1, *held, LAST_NUMBER + 1})
    before, _ = max(zip(edges, edges[1:]), key=lambda pair: pair[1] - pair[0])
    return before + 1


def named_numbers(requests: tuple[AnalysisRequest, ...]) -> set[int]:
    """Return the numbers, of metadata or attachments, that requests name."""
    return artifact_numbers(requests) | {request.record.number for request in requests if request.record}


def artifact_numbers(requests: tuple[AnalysisRequest, ...]) -> set[int]:
    """Return the numbers of the attachments that should hold a file of a result by now."""
    return {artifact.number for request in requests for artifact in request.artifacts}


def record_numbers(requests: tuple[AnalysisRequest, ...]) -> set[int]:
    """Return the numbers that should hold a full result by now: those whose size is known."""
    return {request.record.number for request in requests if request.record and request.record.size}
