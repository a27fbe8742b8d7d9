# SPDX-License-Identifier: Apache-2.0
"""Heartbeats of one lease, from a thread of their own, so that a busy GPU never costs the lease."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Self

from worker.api.client import PluginClient
from worker.api.contract import Claim
from worker.errors import LeaseLostError, RefusedError, RequestGoneError, ServerError, StopReason
from worker.jobs.control import JobControl
from worker.logs import request_context

_log = logging.getLogger(__name__)

_LEAST_GAP_S = 1.0
"""Stages that follow each other faster than this share a heartbeat."""


class Heartbeat:
    """Keeps a lease while its work runs, and stops the work when the server says so.

    Parameters
    ----------
    client
        A client of its own: it is used from the heartbeat's thread only.
    claim
        The claimed request.
    control
        Where the work reports and is stopped.
    on_drain
        Called when a person asked this worker to take no further requests.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(
        self,
        client: PluginClient,
        claim: Claim,
        control: JobControl,
        on_drain: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._claim = claim
        self._control = control
        self._on_drain = on_drain
        self._clock = clock
        self._interval_s = claim.lease.heartbeat_s
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._control.finish()
        # A heartbeat under way ends by its own time-out; nobody needs its answer any more.
        self._thread.join(timeout=_LEAST_GAP_S)

    def _run(self) -> None:
        with request_context(self._claim.request_id):
            alive = True
            while alive:
                position = self._control.position
                sent_at = self._clock()
                self._beat()
                alive = self._control.wait_for_change(self._interval_s, position.stage)
                gap = _LEAST_GAP_S - (self._clock() - sent_at)
                if alive and gap > 0:
                    # The position is read afresh after the gap: several short stages make one heartbeat.
                    alive = self._control.wait_for_end(gap)

    def _beat(self) -> None:
        position = self._control.position
        try:
            answer = self._client.heartbeat(
                self._claim.request_id,
                self._claim.lease,
                stage=position.stage,
                progress=position.progress,
                detail=position.detail,
                prefetch=self._control.prefetch,
            )
        except LeaseLostError:
            self._stop(StopReason.LEASE_LOST, "The lease was lost: the work is dropped.")
        except RequestGoneError:
            self._stop(StopReason.GONE, "The request or its series was deleted: the work is dropped.")
        except RefusedError as error:
            _log.warning("A heartbeat was refused (%s): %s", error.code, error)
        except ServerError as error:
            _log.warning("A heartbeat did not get through: %s", error)
        except Exception:  # noqa: BLE001 - the boundary of the thread: without it the lease is lost in silence
            _log.error("A heartbeat failed for a fault of the worker's own.", exc_info=True)
        else:
            self._interval_s = answer.heartbeat_s or self._interval_s
            if answer.drain:
                self._on_drain()
            if answer.cancel:
                self._cancel()

    def _cancel(self) -> None:
        if not self._stop(StopReason.CANCELLED, "A person cancelled the request: the work is dropped."):
            return
        try:
            self._client.confirm_cancel(self._claim.request_id, self._claim.lease)
        except ServerError as error:
            _log.warning("The cancel could not be confirmed; the server ends it with the lease: %s", error)

    def _stop(self, reason: StopReason, message: str) -> bool:
        first = self._control.stop(reason)
        if first:
            _log.warning("%s", message)
        return first
