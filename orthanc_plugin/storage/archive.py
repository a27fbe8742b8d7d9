# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finished requests that the state of their series has no room for: an attachment of the series holds them.

Memory knows them like all others. One that changes comes back into the state with the same write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from orthanc_plugin.errors import StorageError
from orthanc_plugin.gateway import Gateway
from orthanc_plugin.queue.lifecycle import is_to_be_deleted
from orthanc_plugin.queue.places import place_of
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, replaced
from orthanc_plugin.settings import Settings

from .codec import DamagedError, decode_archive, encode_archive, encode_state
from .damaged import set_aside

MAX_FINISHED = 50
MAX_BYTES = 64 * 1024


def fold(state: SeriesState) -> tuple[SeriesState, bytes, tuple[AnalysisRequest, ...]]:
    """Return the state within its limits, its bytes, and the oldest requests that had to leave it."""
    settled = [request for request in state.requests if _is_settled(request)]
    count = max(0, len(settled) - MAX_FINISHED)
    while True:
        kept = _without(state, settled[:count])
        content = encode_state(kept)
        if len(content) <= MAX_BYTES or count == len(settled):
            return kept, content, tuple(settled[:count])
        count += 1


def _is_settled(request: AnalysisRequest) -> bool:
    """Tell whether nothing will change a request by itself."""
    return not request.is_open and not is_to_be_deleted(request)


def _without(state: SeriesState, leaving: Sequence[AnalysisRequest]) -> SeriesState:
    if not leaving:
        return state
    ids = {request.request_id for request in leaving}
    kept = tuple(request for request in state.requests if request.request_id not in ids)
    return replaced(state, requests=kept, folded=state.folded + len(leaving))


def brought_back(state: SeriesState, request: AnalysisRequest) -> SeriesState:
    """Return the state with a request of the archive in its place again.

    The archive keeps its copy until the request is folded anew: what the state holds comes before that.
    """
    requests = sorted((*state.requests, request), key=place_of)
    return replaced(state, requests=tuple(requests), folded=max(0, state.folded - 1))


class Archive:
    """The attachment of a series that holds what its state has no room for."""

    def __init__(self, gateway: Gateway, settings: Settings, warn: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._number = settings.archive_number
        self._damaged_number = settings.damaged_number
        self._warn = warn

    def read(self, state: SeriesState) -> tuple[tuple[AnalysisRequest, ...], int]:
        """Return the requests that have left a state, and the schema that they were written with.

        A damaged archive is set aside and reported, and holds nothing then; one that is missing is reported.

        Raises
        ------
        StorageError
            Where Orthanc fails.
        NewerError
            Where a newer version wrote what this one cannot read.
        """
        content = self._gateway.get_attachment(state.series_id, self._number)
        if content is None:
            if state.folded:
                self._warn(f"The archive of finished requests of series {state.series_id} is gone.")
            return (), state.schema
        try:
            requests, schema = decode_archive(state.series_id, content)
        except DamagedError as error:
            self._set_aside(state.series_id, content, error)
            return (), state.schema
        held = {request.request_id for request in state.requests}
        return tuple(request for request in requests if request.request_id not in held), schema

    def _set_aside(self, series_id: str, content: bytes, error: DamagedError) -> None:
        number = self._damaged_number
        set_aside(
            content,
            partial(self._gateway.get_attachment, series_id, number),
            partial(self._gateway.put_attachment, series_id, number),
        )
        self._warn(
            f"The archive of finished requests of series {series_id} is damaged ({error}). "
            f"It is kept as attachment {number}; no files of results are deleted there."
        )

    def write(
        self, series_id: str, held: Sequence[AnalysisRequest], folded: Sequence[AnalysisRequest]
    ) -> None:
        """Write what the archive is to hold: what it held, and what has left the state now.

        Raises
        ------
        StorageError
            Where Orthanc fails; the archive is what it was then, as far as Orthanc lets it.
        """
        latest = {request.request_id: request for request in (*held, *folded)}
        try:
            self._put(series_id, latest.values())
        except StorageError:
            if held:  # a full disk cuts off what is written, and has room for what was there before
                with suppress(StorageError):
                    self._put(series_id, held)
            raise

    def _put(self, series_id: str, requests: Iterable[AnalysisRequest]) -> None:
        self._gateway.put_attachment(series_id, self._number, encode_archive(tuple(requests)))
