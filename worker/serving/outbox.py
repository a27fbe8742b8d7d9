# SPDX-License-Identifier: Apache-2.0
"""Gets the ends of requests to the server, through the spool, so that neither a cut nor a crash loses one."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from itertools import count

from worker.api.calls import Retry
from worker.api.client import PluginClient
from worker.backoff import Backoff, Wait, uninterrupted
from worker.errors import (
    BusyError,
    JobStoppedError,
    RefusedError,
    RequestGoneError,
    ServerError,
    SpoolError,
    UnauthorizedError,
    UnreachableError,
)
from worker.jobs.delivery import Delivery, names_patient, without_patient_data
from worker.jobs.failures import Failure
from worker.logs import request_context

from .spool import Spool

_log = logging.getLogger(__name__)

_SETTLED = frozenset({"lease_lost", "series_changed", "wrong_state"})
"""Refusals after which nobody wants this delivery any more: the server has gone on without it."""


_INSTALLATIONS_FAULTS = frozenset({"forbidden_role", "forbidden_origin", "unknown_route", "upgrade_worker"})
"""Refusals of whoever asks, whatever is sent: a user taken out of Pathology.Workers must not cost results."""

_OF_ONE_SLIDE = "storage_unavailable"
"""May be for days, where a file of that slide is lost or its requests are of a newer plugin."""

_REPLAY = Retry(within_s=2.0)
"""A replay is itself a repeat, and an idle worker's claim waits for it: a dropped connection is made anew,
but no ``Retry-After`` waited out: a few slides that cannot be read would keep the worker from claiming."""

_UNKEPT_S = 600.0
"""So long a result that finds no room on disk is sent again and again, with its lease held. Then it is lost:
those that follow find none either."""
_OBJECTS_S = 60.0
"""So long one with DICOM objects is, which the disk does not keep: Orthanc may only be starting anew."""


class Fate(Enum):
    """What became of a delivery."""

    ARRIVED = "arrived"
    WAITS = "waits"
    UNKEPT = "unkept"
    UNWANTED = "unwanted"
    REFUSED = "refused"


class Outbox:
    """Sends deliveries and keeps those that did not arrive.

    Parameters
    ----------
    client
        Acts as the worker.
    spool
        Where deliveries wait.
    clock
        A monotonic clock, in seconds.
    backoff
        Waits between replays that left something waiting, and between tries of what the disk does not keep.
    wait
        Waits between tries.
    """

    def __init__(
        self,
        client: PluginClient,
        spool: Spool,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
        wait: Wait = uninterrupted,
    ) -> None:
        self._client = client
        self._spool = spool
        self._clock = clock
        self._backoff = backoff if backoff is not None else Backoff(base_s=2.0, cap_s=60.0)
        self._wait = wait
        self._failures = 0
        self._rests_until = clock()
        self._told: dict[str, str] = {}
        self._sending = threading.Lock()
        self._replaying: Future[bool] | None = None

    def deliver(
        self, delivery: Delivery, on_sent: Callable[[int], None] | None = None, begun_at: float | None = None
    ) -> Fate:
        """Send a new delivery, one at a time: the next slide may be done before the last one has arrived.

        Parameters
        ----------
        delivery
            What to send.
        on_sent
            Called with the bytes of each artifact that arrived.
        begun_at
            When publishing began, on the clock; its duration becomes the result's ``timings_s.publish``.

        Raises
        ------
        JobStoppedError
            If `on_sent` does, since the work was stopped; nothing of the delivery is kept then.
        """
        with self._sending:
            try:
                return self._deliver(delivery, on_sent, begun_at)
            except JobStoppedError:
                # Here, where no replay comes in between.
                self._discard(delivery)
                raise

    def _deliver(
        self, delivery: Delivery, on_sent: Callable[[int], None] | None, begun_at: float | None
    ) -> Fate:
        first_at, spooled = self._clock(), False
        for failures in count():
            spooled = spooled or self._keep(delivery)
            fate = self._send(delivery, on_sent, begun_at, spooled=spooled)
            pause_s = self._backoff.delay(failures)
            is_last = self._clock() + pause_s >= first_at + _again_from_memory_s(delivery, fate)
            if is_last or self._wait(pause_s):
                break
        if fate is Fate.UNKEPT:
            self._told.pop(delivery.name, None)
            _log.error("The result, which was not kept, is lost; the server gives the request out again.")
        return fate

    def _send(
        self,
        delivery: Delivery,
        on_sent: Callable[[int], None] | None,
        begun_at: float | None,
        *,
        spooled: bool,
    ) -> Fate:
        started = self._clock() if begun_at is None else begun_at
        try:
            for name, data in delivery.artifacts.items():
                self._client.put_artifact(delivery.request_id, delivery.lease, name, data)
                if on_sent is not None:
                    on_sent(len(data))
            final = self._timed(delivery, self._clock() - started, spooled=spooled)
            self._client.complete(final.request_id, final.body)
        except ServerError as error:
            return self._settle(delivery, error, spooled=spooled)
        if spooled:
            self._discard(delivery)
        return Fate.ARRIVED

    def begin_replay(self, *, patiently: bool = False) -> Future[bool]:
        """Begin to `replay` in a thread of its own, or return what is under way, or was last done.

        A line that is dead holds a call for minutes, in which somebody must look after the work in hand.

        Parameters
        ----------
        patiently
            Whether a replay that left something waiting is followed by the next one after a while only.
        """
        rests = patiently and self._clock() < self._rests_until
        if self._replaying is None or (self._replaying.done() and not rests):
            self._replaying = Future()
            thread = threading.Thread(
                target=self._replay_into, args=(self._replaying,), name="replay", daemon=True
            )
            thread.start()
        return self._replaying

    def _replay_into(self, outcome: Future[bool]) -> None:
        try:
            outcome.set_result(self.replay())
        except Exception as error:  # noqa: BLE001 - the boundary of the thread; raised again by who asks
            outcome.set_exception(error)

    def replay(self) -> bool:
        """Send what waits, oldest first, until the server cannot be reached; return whether nothing waits.

        While a new delivery is being sent, which lies on disk like those that wait, nothing is done.
        """
        if not self._sending.acquire(blocking=False):
            return False
        try:
            return self._replay()
        finally:
            self._sending.release()

    def _replay(self) -> bool:
        try:
            self._spool.tidy()
            arrived = self._send_all()
        except SpoolError as error:
            # New requests can be served all the same: their results are sent from memory.
            _log.error("%s Not all results that wait there are sent.", error)
            self._rest(after_failure=True)
            return True
        self._rest(after_failure=not arrived)
        return arrived

    def _rest(self, *, after_failure: bool) -> None:
        pause_s = self._backoff.delay(self._failures) if after_failure else 0.0
        self._failures = self._failures + 1 if after_failure else 0
        self._rests_until = self._clock() + pause_s

    def _send_all(self) -> bool:
        """Send what waits; go on after one that concerns itself alone, such as too large for a proxy."""
        arrived = True
        for delivery in self._spool.waiting():
            with request_context(delivery.request_id):
                failure = self._resend_or_set_aside(delivery)
            arrived = arrived and failure is None
            if failure is not None and _concerns_all(failure):
                break
        return arrived

    def _resend_or_set_aside(self, delivery: Delivery) -> ServerError | None:
        """Send what waits; return why it goes on waiting, if it does."""
        try:
            return self._resend(delivery)
        except Exception:  # noqa: BLE001 - one delivery must not end the worker, now and at each start
            _log.error(
                "A result that waits on disk (%s) cannot be sent for a fault of the worker's own: it is set "
                "aside, kept as long as others, and tried again at the next start.",
                delivery.name,
                exc_info=True,
            )
            self._spool.set_aside(delivery.name)
            return None

    def _resend(self, delivery: Delivery) -> ServerError | None:
        _log.debug("Sending a result again that waited on disk.")
        try:
            for name, data in delivery.artifacts.items():
                self._client.put_artifact(delivery.request_id, delivery.lease, name, data, retry=_REPLAY)
            self._complete_again(delivery)
        except ServerError as error:
            return error if self._settle(delivery, error, spooled=True) is Fate.WAITS else None
        _log.info("The result that waited has arrived.")
        self._discard(delivery)
        return None

    def _complete_again(self, delivery: Delivery) -> None:
        """Complete; where the server has lost objects that were not kept here, without them."""
        try:
            self._client.complete(delivery.request_id, delivery.body, retry=_REPLAY)
        except RefusedError as error:
            reduced = without_patient_data(delivery)
            if error.code != "artifact_mismatch" or reduced is delivery:
                raise
            _log.warning("The DICOM results are lost, for they were not kept on this disk: %s", error)
            self._client.complete(delivery.request_id, reduced.body, retry=_REPLAY)

    def _keep(self, delivery: Delivery) -> bool:
        try:
            self._spool.store(delivery)
        except SpoolError as error:
            _log.error("%s The result is sent from memory; a crash now would lose it.", error)
            return False
        return True

    def _timed(self, delivery: Delivery, seconds: float, *, spooled: bool) -> Delivery:
        """Add the time that publishing took, and let the disk know of all that the server has by now.

        A replay then names the DICOM objects as well, which are not kept here but have been sent.
        """
        timed = _with_publish_time(delivery, seconds)
        if not spooled:
            return timed
        try:
            self._spool.replace_body(timed)
        except SpoolError:
            return delivery
        return timed

    def _settle(self, delivery: Delivery, error: ServerError, *, spooled: bool) -> Fate:
        """Decide what a failure to send means for the delivery: the plugin's own word on it alone ends it."""
        if not isinstance(error, RefusedError) or _concerns_all(error) or isinstance(error, BusyError):
            self._tell_that_it_waits(delivery, error, "on disk" if spooled else "in memory")
            return Fate.WAITS if spooled else Fate.UNKEPT
        self._discard(delivery)
        if error.code == "already_completed":
            # The answer was lost; what is kept on disk differs from what was sent by the header's values.
            _log.info("The server has this result already.")
            return Fate.ARRIVED
        if isinstance(error, RequestGoneError) or error.code in _SETTLED:
            _log.warning("The server does not want this result any more and it was dropped: %s", error)
            return Fate.UNWANTED
        _log.error("The server refused the result: %s", error)
        self._report_refusal(delivery, error)
        return Fate.REFUSED

    def _tell_that_it_waits(self, delivery: Delivery, error: ServerError, where: str) -> None:
        """Warn of what keeps a delivery, once for each reason and not at each try."""
        is_known = self._told.get(delivery.name) == str(error)
        self._told[delivery.name] = str(error)
        level = logging.DEBUG if is_known else logging.WARNING
        _log.log(level, "The result did not arrive, waits %s and is sent again: %s", where, error)

    def _discard(self, delivery: Delivery) -> None:
        self._told.pop(delivery.name, None)
        self._spool.discard(delivery)

    def _report_refusal(self, delivery: Delivery, error: RefusedError) -> None:
        """End a request whose result cannot be stored, so that nobody waits for it."""
        failure = Failure(
            error.code,
            f"The server refused the result: {error}",
            retryable=error.code == "artifact_mismatch",
        )
        kept = {key: delivery.body[key] for key in ("worker_id", "token", "fence", "fingerprint")}
        try:
            self._client.complete(delivery.request_id, {**kept, "error": failure.as_json()})
        except ServerError as second:
            _log.error("Nor could the request be ended with that error: %s", second)


def _concerns_all(error: ServerError) -> bool:
    """Return whether what failed to arrive would fail for any delivery: a line that is cut, a busy server."""
    if isinstance(error, RefusedError):
        is_busy = isinstance(error, BusyError) and error.status != 500 and error.code != _OF_ONE_SLIDE
        return is_busy or error.code in _INSTALLATIONS_FAULTS
    return isinstance(error, UnreachableError | UnauthorizedError)


def _again_from_memory_s(delivery: Delivery, fate: Fate) -> float:
    """Return for how long a delivery is sent again from memory, which holds more of it than the disk."""
    if fate is Fate.UNKEPT:
        return _UNKEPT_S
    has_objects = any(names_patient(name) for name in delivery.artifacts)
    return _OBJECTS_S if fate is Fate.WAITS and has_objects else 0.0


def _with_publish_time(delivery: Delivery, seconds: float) -> Delivery:
    result = delivery.body.get("result")
    if result is None:
        return delivery
    timings = {**result.get("timings_s", {}), "publish": round(seconds, 3)}
    return dataclasses.replace(delivery, body={**delivery.body, "result": {**result, "timings_s": timings}})
