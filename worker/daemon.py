# SPDX-License-Identifier: Apache-2.0
"""The loop of the worker: claim, work, send; until it is asked to end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from worker.backoff import Backoff
from worker.claims import Claimer
from worker.client import ONCE, PluginClient
from worker.contract import Claim
from worker.control import JobControl
from worker.delivery import Delivery
from worker.errors import BusyError, JobStoppedError, RefusedError, ServerError, StopReason, UnauthorizedError
from worker.heartbeat import Heartbeat
from worker.job import Analyzer, Job
from worker.logs import request_context
from worker.outbox import Fate, Outbox
from worker.progress import ProgressView
from worker.pulse import Pulse
from worker.settings import Settings, Shutdown
from worker.shutdown import ShutdownRequest
from worker.stages import position_in

_log = logging.getLogger(__name__)

_TICK_S = 0.2
_GRACE_S = 5.0
"""How long a stopped job may take to notice; a native call cannot be interrupted."""


_FAILURES_OF_A_SINGLE_RUN = 5
"""After so many claims without an answer a run that is to end by itself gives up: half a minute or so."""


class Mode(Enum):
    """When the loop ends by itself."""

    FOREVER = "forever"
    ONCE = "once"
    UNTIL_EMPTY = "until_empty"


@dataclass(frozen=True)
class DaemonEnd:
    """How the loop ended.

    Attributes
    ----------
    served
        Requests that were worked on.
    work_abandoned
        Whether a thread is still in a native call, so that the process must end without waiting for it.
    """

    served: int
    work_abandoned: bool


class Daemon:
    """Claims requests and works on them, one at a time.

    Parameters
    ----------
    settings
        How to behave.
    analyzer
        Runs the models.
    job
        Works on one request.
    outbox
        Gets results to the server.
    make_client
        Makes a client that acts as the worker; each thread has its own.
    make_view
        Makes the display of one request's progress.
    shutdown
        How the loop is asked to end.
    backoff
        Waits after failures to reach the server.
    """

    def __init__(
        self,
        settings: Settings,
        analyzer: Analyzer,
        job: Job,
        outbox: Outbox,
        *,
        make_client: Callable[[], PluginClient],
        make_view: Callable[[], ProgressView],
        shutdown: ShutdownRequest,
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._job = job
        self._outbox = outbox
        self._make_client = make_client
        self._make_view = make_view
        self._shutdown = shutdown
        self._backoff = backoff if backoff is not None else Backoff(base_s=1.0, cap_s=60.0)
        self._pulse = Pulse()
        self._claimer = Claimer(make_client, analyzer, lambda: shutdown.no_more, self._show_idle)
        self._failures = 0
        self._was_accepted = False
        self._abandoned = False
        self._served = 0

    def run(self, mode: Mode = Mode.FOREVER, pulse: Pulse | None = None) -> DaemonEnd:
        """Run until the mode or the shutdown ends it.

        Parameters
        ----------
        mode
            When the loop ends by itself.
        pulse
            Tells whoever watches over this process that the loop turns.

        Raises
        ------
        UnauthorizedError, RefusedError
            If the server turns this worker away at its first claim: nothing here mends that by waiting.
        ServerError
            If a run that is to end by itself gets no answer to several claims in a row.
        """
        self._pulse = pulse if pulse is not None else self._pulse
        self._pulse.ready()
        while not self._ends(mode):
            if not self._step(mode):
                break
        self._pulse.stopping()
        _log.info("The worker ends after %d request(s).", self._served)
        return DaemonEnd(self._served, self._abandoned)

    def _ends(self, mode: Mode) -> bool:
        return self._shutdown.no_more or self._abandoned or (mode is Mode.ONCE and self._served > 0)

    def _step(self, mode: Mode) -> bool:
        """Claim and serve one request; return False where there is nothing to do and the mode ends then."""
        wait_s = 0.0 if mode is Mode.UNTIL_EMPTY else self._settings.long_poll_s
        asked_at = time.monotonic()
        try:
            delivered = self._outbox.replay(self._show_idle)
            answer = self._claimer.claim(wait_s)
        except ServerError as error:
            self._after_failure(error, mode)
            return True
        self._failures = 0
        self._was_accepted = True
        if answer.claim is not None:
            self._serve(answer.claim)
            return True
        if mode is not Mode.FOREVER and delivered:
            return False
        self._pause_between_claims(answer.pause_s, time.monotonic() - asked_at)
        return True

    def _after_failure(self, error: ServerError, mode: Mode) -> None:
        if mode is not Mode.FOREVER and self._failures >= _FAILURES_OF_A_SINGLE_RUN:
            raise error
        refused = isinstance(error, UnauthorizedError | RefusedError) and not isinstance(error, BusyError)
        if refused and not self._was_accepted:
            raise error
        after_s = error.retry_after_s if isinstance(error, RefusedError) else None
        delay_s = self._backoff.delay(self._failures, after_s or 0.0)
        self._failures += 1
        _log.warning("No answer to a claim; next try in %.0f s. %s", delay_s, error)
        self._sleep(delay_s)

    def _pause_between_claims(self, pause_s: float | None, waited_s: float) -> None:
        """Ask again at once after a poll that was held; after a refused one wait as the server says.

        A pause after a held poll would only delay who submits in it.
        """
        held = self._settings.long_poll_s > 0 and waited_s >= 0.9 * self._settings.long_poll_s
        if not held:
            self._sleep(self._settings.poll_interval_s if pause_s is None else pause_s)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._shutdown.no_more and (left := until - time.monotonic()) > 0:
            self._show_idle()
            self._shutdown.requested.wait(min(left, _TICK_S))

    def _serve(self, claim: Claim) -> None:
        self._served += 1
        control = JobControl()
        client = self._make_client()
        with request_context(claim.request_id):
            _log.info(
                "Claimed: model %s, series %s.",
                claim.request.get("model"),
                claim.request.get("series_instance_uid"),
            )
            thread = threading.Thread(target=self._work, args=(claim, control), name="job", daemon=True)
            with Heartbeat(client, claim, control, on_drain=self._drain):
                thread.start()
                self._supervise(thread, claim, control)
        client.close()

    def _work(self, claim: Claim, control: JobControl) -> None:
        """Work on a claim, in a thread of its own."""
        with request_context(claim.request_id):
            view = self._make_view()
            try:
                delivery = self._job.run(claim, control, view)
                control.report_publishing()
                self._send(delivery, control)
            except JobStoppedError as stopped:
                _log.info("The work was dropped (%s).", stopped.reason.value)
            except Exception:  # noqa: BLE001 - the boundary of the thread
                # The lease expires and the server gives the request out again.
                _log.error("The result could not be sent for a fault of the worker's own.", exc_info=True)
            finally:
                view.close()
                control.finish()

    def _send(self, delivery: Delivery, control: JobControl) -> None:
        begun = time.monotonic()
        sent = 0

        def on_sent(size: int) -> None:
            nonlocal sent
            sent += size
            control.report(position_in("publish", sent / max(delivery.size, 1)))

        try:
            fate = self._outbox.deliver(delivery, on_sent, begun)
        except JobStoppedError:
            self._outbox.forget(delivery)
            raise
        if fate is Fate.ARRIVED:
            what = "result" if "result" in delivery.body else "error"
            _log.info("The %s has arrived (%.1f s).", what, time.monotonic() - begun)

    def _supervise(self, thread: threading.Thread, claim: Claim, control: JobControl) -> None:
        """Wait for the work, and stop it where a shutdown asks for that."""
        give_up_at: float | None = None
        while thread.is_alive():
            thread.join(_TICK_S)
            self._pulse.working(claim.request_id, control.position)
            if give_up_at is None and self._must_hand_back():
                self._hand_back(claim, control)
                give_up_at = time.monotonic() + _GRACE_S
            if give_up_at is not None and thread.is_alive() and time.monotonic() > give_up_at:
                self._abandoned = True
                return

    def _must_hand_back(self) -> bool:
        first_suffices = self._settings.shutdown is Shutdown.HANDBACK
        return self._shutdown.at_once.is_set() or (first_suffices and self._shutdown.requested.is_set())

    def _hand_back(self, claim: Claim, control: JobControl) -> None:
        """Give the lease back now; a result that is being sent is finished, or waits on disk."""
        if not control.stop(StopReason.HANDED_BACK):
            return
        client = self._make_client()
        try:
            client.hand_back(claim.request_id, claim.lease, retry=ONCE)
            _log.info("The request was handed back.")
        except ServerError as error:
            _log.warning("The request could not be handed back; its lease expires by itself: %s", error)
        finally:
            client.close()

    def _show_idle(self) -> None:
        self._pulse.idle()

    def _drain(self) -> None:
        if not self._shutdown.drained.is_set():
            _log.info("A person asked this worker to take no further requests.")
        self._shutdown.drain()
