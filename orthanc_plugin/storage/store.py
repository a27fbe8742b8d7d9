# SPDX-License-Identifier: AGPL-3.0-or-later
"""The state of a series, read from and written to its metadata: one write for every transition."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context

from orthanc_plugin.clock import Clock
from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.gateway import Gateway
from orthanc_plugin.queue.held_leases import Lease
from orthanc_plugin.queue.index import Index
from orthanc_plugin.queue.leases import duration_of, found_at_start
from orthanc_plugin.queue.series_state import SCHEMA, SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, replaced
from orthanc_plugin.settings import Settings

from .archive import MAX_BYTES, Archive, fold
from .codec import NewerError
from .doubts import Doubt, Doubts, OnFound
from .numbering import artifact_numbers, record_numbers
from .state_reader import StateReader

Change = Callable[[SeriesState], SeriesState]
RequestChange = Callable[[AnalysisRequest], AnalysisRequest]


def with_request(state: SeriesState, request: AnalysisRequest) -> SeriesState:
    """Return the state with a request added, or put in place of its former self."""
    known = state.find(request.request_id)
    if known is None:
        return replaced(state, requests=(*state.requests, request))
    if known is request:
        return state
    return replaced(state, requests=tuple(request if old is known else old for old in state.requests))


class Store:
    """Transactions on the state of one series at a time.

    A transaction holds the lock of its series while it reads and writes, and takes the index' lock for
    moments within; nothing else is waited for.

    Parameters
    ----------
    gateway, settings, index, clock, warn
        What it works with.
    on_found
        Told once of every change of a request whose write was refused to its caller, because Orthanc failed,
        and which is found to have taken place when the series is read again; in the context of that caller.
    """

    def __init__(
        self,
        gateway: Gateway,
        settings: Settings,
        index: Index,
        clock: Clock,
        warn: Callable[[str], None],
        on_found: OnFound,
    ) -> None:
        self._gateway = gateway
        self._settings = settings
        self._index = index
        self._clock = clock
        self._archive = Archive(gateway, settings, warn)
        self._reader = StateReader(gateway, settings, self._archive, warn)
        self._locks: dict[str, threading.Lock] = {}
        self._doubts = Doubts(on_found)

    @contextmanager
    def _lock(self, series_id: str) -> Iterator[None]:
        """Hold the lock of a series; whoever hears of what was found meanwhile does so afterwards."""
        try:
            with self._locks.setdefault(series_id, threading.Lock()):
                yield
        finally:
            self._doubts.tell()

    def load(self, series_id: str) -> SeriesState:
        """Return the state of a series, from memory where it has been read before.

        Raises
        ------
        ApiError
            503 where Orthanc cannot read.
        """
        with self._lock(series_id):
            return self._known(series_id)

    def load_stored(self, series_id: str) -> None:
        """Read the state of a series into memory where it has one; a series without requests takes no room.

        Raises
        ------
        ApiError
            503 where Orthanc cannot read.
        """
        with self._lock(series_id):
            if self._index.state(series_id) is None:
                self._read_in(series_id, None, keep_empty=False)

    def transact(self, series_id: str, change: Change, *, must_fit: bool = False) -> SeriesState:
        """Apply `change` to the state of a series with one write, and return what holds then.

        `change` returns the very state it was given where there is nothing to write. It may raise `ApiError`;
        nothing is written then.

        Parameters
        ----------
        series_id
            Orthanc's id of the series.
        change
            Pure function of the state.
        must_fit
            Refuse a state above the size limit (413) instead of writing it all the same.

        Raises
        ------
        ApiError
            410 where the series is gone; 503 where Orthanc cannot read or write, or where the value was
            written by a newer version of the plugin.
        """
        with self._lock(series_id):
            before = self._known(series_id)
            after = change(before)
            if after is before:
                return before
            if before.schema > SCHEMA:
                raise _newer()
            return self._write(before, replaced(after, revision=before.revision + 1), must_fit=must_fit)

    def note(self, series_id: str, change: Change) -> SeriesState:
        """Apply `change` to the state in memory alone, and return what holds then.

        It is written with the next transaction. Before that a restart forgets it (`leases.found_at_start`).

        Raises
        ------
        ApiError
            410 where the series is gone; 503 where Orthanc cannot read.
        """
        with self._lock(series_id):
            before = self._known(series_id)
            after = change(before)
            if after is not before:
                self._index.replace(after, self._fresh_lease)
            return after

    def _write(self, before: SeriesState, state: SeriesState, *, must_fit: bool) -> SeriesState:
        fitted, content, folded = fold(state)
        if must_fit and len(content) > MAX_BYTES:
            raise ApiError(
                413,
                "too_many_requests_on_series",
                "This series holds too many requests. Wait, or cancel some.",
            )
        if folded:
            self._write_archive(fitted.series_id, folded)
        try:
            self._gateway.put_metadata(fitted.series_id, self._settings.metadata_number, content)
        except StorageError as error:
            self._settle(Doubt(self._index.whole(before), fitted, folded, content, copy_context()), error)
        self._doubts.drop(fitted.series_id)
        self._take_over(fitted, folded, self._fresh_lease)
        return fitted

    def _write_archive(self, series_id: str, folded: tuple[AnalysisRequest, ...]) -> None:
        held = self._index.state(series_id)
        try:
            self._archive.write(series_id, self._index.archived(held) if held else (), folded)
        except StorageError as error:
            raise storage_unavailable(
                f"Orthanc could not archive finished requests. {error} Try again."
            ) from error

    def _take_over(
        self,
        state: SeriesState,
        archived: tuple[AnalysisRequest, ...],
        lease_for: Callable[[AnalysisRequest], Lease],
    ) -> None:
        with self._index.lock:  # nobody may see what is archived as unknown
            self._index.replace(state, lease_for)
            self._index.add_archived(archived)

    def _settle(self, doubt: Doubt, error: StorageError) -> None:
        """Find out whether a write that failed took place after all."""
        series_id = doubt.after.series_id
        self._doubts.add(doubt)
        try:
            if self._gateway.get_metadata(series_id, self._settings.metadata_number) == doubt.content:
                return
            is_gone = self._gateway.series(series_id) is None
        except StorageError:
            is_gone = False
        if is_gone:
            raise source_deleted() from error
        raise storage_unavailable(f"Orthanc could not write the request. {error} Try again.") from error

    def read_again(self) -> None:
        """Find out what became of every write that is in doubt, as far as Orthanc can be read."""
        for series_id in self._doubts.series():
            with suppress(ApiError):
                self.load(series_id)

    def in_doubt(self) -> list[AnalysisRequest]:
        """Return the requests that a write has changed, if it took place, as they are then."""
        return self._doubts.requests()

    def _known(self, series_id: str) -> SeriesState:
        known = self._index.state(series_id)
        if known is not None and self._doubts.of(series_id) is None:
            return known
        return self._read_in(series_id, known, keep_empty=True)

    def _read_in(self, series_id: str, known: SeriesState | None, *, keep_empty: bool) -> SeriesState:
        try:
            content = self._gateway.get_metadata(series_id, self._settings.metadata_number)
            doubt = self._doubts.of(series_id)
            if doubt is not None and content == doubt.content:
                self._take_over(doubt.after, doubt.folded, self._fresh_lease)
                self._doubts.found(doubt)
                return doubt.after
            state, archived = self._reader.decoded(series_id, content)
        except StorageError as error:
            raise storage_unavailable(f"Orthanc could not read the requests. {error} Try again.") from error
        except NewerError as error:
            raise _newer() from error
        if doubt is not None:
            self._doubts.found(doubt.in_archive(archived))
        if known is not None and state.revision == 0:
            # Its metadata went with the series, which was deleted or stored again: memory is all there is.
            return known
        if known is not None and state.revision == known.revision:
            state = known  # it has what was noted since as well
        else:
            state = replaced(state, requests=tuple(map(found_at_start, state.requests)))
        if keep_empty or state.revision or archived:
            self._take_over(state, archived, self._full_lease)
        return state

    def forget(self, series_id: str) -> SeriesState | None:
        """Drop the requests of a deleted series from memory, after a transaction that is still on.

        Returns what was known of it, with its archive.
        """
        with self._lock(series_id):
            self._doubts.drop(series_id)
            return self._index.forget_series(series_id)

    def carry_over(
        self, series_id: str, lost: SeriesState, change: RequestChange
    ) -> tuple[AnalysisRequest, ...]:
        """Write the requests of `lost` to a series that lacks them or files of theirs, each of those changed.

        What lacks is looked for in the same step: a result that is delivered just then is not taken for one
        that went. What the series has got since stays beside them.

        Returns
        -------
        tuple of AnalysisRequest
            What was lacking, as it was before; where that is nothing, nothing is written.

        Raises
        ------
        ApiError
            410 and 503, as `transact`.
        StorageError
            Where Orthanc cannot read.
        """
        with self._lock(series_id):
            state = self._known(series_id)
            is_stored = self._gateway.get_metadata(series_id, self._settings.metadata_number) is not None
            intact = self._intact(state) if is_stored else set()
            held = self._index.whole(state)
            latest = tuple(held.find(old.request_id) or old for old in lost.requests)
            lacking = tuple(request for request in latest if request.request_id not in intact)
            if not lacking:
                return ()
            if is_stored and state.schema > SCHEMA:
                raise _newer()
            carried = tuple(item if item.request_id in intact else change(item) for item in latest)
            since = tuple(item for item in held.requests if lost.find(item.request_id) is None)
            known = SeriesState(
                series_id,
                next_number=max(lost.next_number, held.next_number),
                revision=max(lost.revision, held.revision),
                requests=(*latest, *since),
            )
            merged = replaced(known, revision=known.revision + 1, requests=(*carried, *since))
            self._write(known, merged, must_fit=False)
            return lacking

    def _intact(self, state: SeriesState) -> set[str]:
        """Return the ids of a series' requests of which it holds all that they name.

        That it has metadata does not tell: a transition before the news of a deletion writes that again.
        """
        files = set(self._gateway.list_attachments(state.series_id))
        numbers = set(self._gateway.list_metadata(state.series_id)) | files
        held = self._index.whole(state) if self._settings.archive_number in files else state
        return {
            request.request_id
            for request in held.requests
            if artifact_numbers((request,)) <= files and record_numbers((request,)) <= numbers
        }

    def _fresh_lease(self, request: AnalysisRequest) -> Lease:
        """Return the lease that a grant begins with; an older worker confirms nothing."""
        grant = request.grants[-1]
        if grant.confirmed or grant.tokenless:
            return self._full_lease(request)
        return Lease(request.fence, self._clock.monotonic() + self._settings.confirm_s)

    def _full_lease(self, request: AnalysisRequest) -> Lease:
        """Return the lease after a restart: its worker may be alive and unheard."""
        seconds = duration_of(request.grants[-1], self._settings.lease_s)
        return Lease(request.fence, self._clock.monotonic() + seconds)


def source_deleted() -> ApiError:
    """Return the error for a request whose series was deleted."""
    return ApiError(410, "source_deleted", "The series of this request was deleted. Drop the work.")


def _newer() -> ApiError:
    return storage_unavailable(
        "The requests of this series were written by a newer plugin. Upgrade this one."
    )


def storage_unavailable(sentence: str) -> ApiError:
    """Return the error where Orthanc fails; the same again may go well."""
    return ApiError(503, "storage_unavailable", sentence, headers={"Retry-After": "5"})
