# SPDX-License-Identifier: Apache-2.0
"""One request in hand: the thread that works on it, its heartbeats, and how it is given back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from worker.api.calls import ONCE
from worker.api.client import PluginClient
from worker.api.contract import Claim
from worker.errors import ServerError, StopReason
from worker.jobs.control import JobControl
from worker.logs import request_context
from worker.sources.errors import SourceUnauthorizedError
from worker.stages import encoder_free_in_s

from .heartbeat import Heartbeat

_log = logging.getLogger(__name__)

_GRACE_S = 5.0
"""How long stopped work may take to notice; a native call cannot be interrupted."""


class Work:
    """A claimed request, from the claim to its end.

    Parameters
    ----------
    claim
        The claimed request.
    make_client
        Makes a client; the heartbeats have one of their own.
    work
        Works on this request, in a thread of its own; it ends by itself when `control` says so.
    on_drain
        Called when a person asked this worker to take no further requests.

    Attributes
    ----------
    refusal
        Why Orthanc lets this worker read no slides, where that ended the work.
    """

    def __init__(
        self,
        claim: Claim,
        make_client: Callable[[], PluginClient],
        work: Callable[[Work], None],
        on_drain: Callable[[], None],
    ) -> None:
        self.claim = claim
        self.control = JobControl(prefetch=claim.lease.prefetch)
        self.refusal: SourceUnauthorizedError | None = None
        self._make_client = make_client
        self._client = make_client()
        self._heartbeat = Heartbeat(self._client, claim, self.control, on_drain)
        self._thread = threading.Thread(target=work, args=(self,), name="job", daemon=True)
        self._give_up_at: float | None = None

    def start(self) -> None:
        """Begin to work and to send heartbeats."""
        with request_context(self.claim.request_id):
            request = self.claim.request
            ahead = " ahead" if self.claim.lease.prefetch else ""
            _log.info(
                "Claimed%s: model %s, series %s.",
                ahead,
                request.get("model"),
                request.get("series_instance_uid"),
            )
        self._heartbeat.__enter__()
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    @property
    def is_stuck(self) -> bool:
        """Whether it was given back and its thread has not ended in time."""
        late = self._give_up_at is not None and time.monotonic() > self._give_up_at
        return late and self._thread.is_alive()

    @property
    def encoder_free_in_s(self) -> float:
        """Seconds until it needs the encoder no more, by its own rate or the last slide's; else infinite."""
        return encoder_free_in_s(self.control.position)

    def wait(self, seconds: float) -> None:
        """Wait for its end, for so long at most."""
        self._thread.join(seconds)

    def close(self) -> None:
        """End the heartbeats."""
        self._heartbeat.__exit__()
        self._client.close()

    def hand_back(self) -> None:
        """End the work and give its lease back, once; a result that is being sent is finished, or waits."""
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + _GRACE_S
            self._give_lease_back()

    def go_back(self, refusal: SourceUnauthorizedError) -> None:
        """Give the lease back from the work's own thread, which ends then, however long the answer takes."""
        self.refusal = refusal
        self._give_lease_back()

    def _give_lease_back(self) -> None:
        if not self.control.stop(StopReason.HANDED_BACK):
            return
        client = self._make_client()
        with request_context(self.claim.request_id):
            try:
                client.hand_back(self.claim.request_id, self.claim.lease, retry=ONCE)
                _log.info("The request was handed back.")
            except ServerError as error:
                _log.warning("The request could not be handed back; its lease expires by itself: %s", error)
            finally:
                client.close()
