# SPDX-License-Identifier: Apache-2.0
"""The loop of the worker: claim, work, send; until it is asked to end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from enum import Enum

from worker.api.client import PluginClient
from worker.api.contract import Claim
from worker.backoff import Backoff
from worker.errors import BusyError, JobStoppedError, RefusedError, ServerError, UnauthorizedError
from worker.jobs.control import JobControl
from worker.jobs.delivery import Delivery
from worker.jobs.job import Analyzer, Job
from worker.logs import request_context
from worker.processes.pulse import Pulse
from worker.processes.shutdown import ShutdownRequest
from worker.progress import ProgressView
from worker.settings import Settings, Shutdown
from worker.sources.errors import SourceUnauthorizedError
from worker.stages import position_in

from .claims import Claimer
from .outbox import Fate, Outbox
from .work import Work

_log = logging.getLogger(__name__)

_TICK_S = 0.2
_AHEAD_S = 20.0
"""The next slide is claimed when the one in hand needs the encoder for less than so many seconds."""
_AHEAD_POLL_S = 5.0
"""So long a claim ahead is held open: soon the worker may be idle, and then its claim ranks higher."""
_AHEAD_PAUSE_S = 1.0
"""Least pause between claims while a request is in hand, which may end at any time."""
_FAILURES_OF_A_SINGLE_RUN = 5
"""After so many claims without an answer, or tries to send what waits on disk, a run that is to end by itself
gives up: half a minute or so; and after so many slides in a row that it may not read."""


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
    """Claims requests and works on them: one is encoded, and the next prepared when that one is nearly done.

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
        self._claimer = Claimer(make_client, analyzer, lambda: shutdown.no_more, self._tick)
        self._failures = 0
        self._is_unanswered = False
        self._refusals = 0
        self._refusal: SourceUnauthorizedError | None = None
        self._undelivered = 0
        self._was_accepted = False
        self._abandoned = False
        self._served = 0
        self._works: list[Work] = []

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
            If the server turns this worker away at its first claim: nothing here mends that by waiting. Or if
            a run that is to end by itself may read none of several slides in a row, or not its only one.
        ServerError
            If a run that is to end by itself gets no answer to several claims in a row.
        """
        self._pulse = pulse if pulse is not None else self._pulse
        self._pulse.ready()
        while not (self._ends(mode) or self._abandoned):
            if not self._may_claim():
                self._wait_for_work()
            elif not self._step(mode):
                break
        while self._works and not self._shutdown.no_more:
            self._wait_for_work()
        self._pulse.stopping()
        while self._works:
            self._wait_for_work()
        self._claimer.leave()
        if self._refusal is not None and mode is Mode.ONCE:
            raise UnauthorizedError(str(self._refusal)) from self._refusal
        _log.info("The worker ends after %d request(s).", self._served)
        return DaemonEnd(self._served, self._abandoned)

    def _ends(self, mode: Mode) -> bool:
        return self._shutdown.no_more or (mode is Mode.ONCE and self._served > 0)

    def _may_claim(self) -> bool:
        """Return whether there is room for a request: nothing in hand, or one that is nearly encoded."""
        if not self._works:
            return True
        return len(self._works) == 1 and self._works[0].encoder_free_in_s < _AHEAD_S

    def _step(self, mode: Mode) -> bool:
        """Claim a request and begin it; return False where there is nothing to do and the mode ends then."""
        if self._refusal is not None:
            self._after_refusal(self._refusal, mode)
            return True
        ahead = bool(self._works)
        wait_s = 0.0 if mode is Mode.UNTIL_EMPTY else self._settings.long_poll_s
        wait_s = min(wait_s, _AHEAD_POLL_S) if ahead else wait_s
        try:
            delivered = self._send_waiting()
            asked_at = time.monotonic()
            answer = self._claimer.claim(wait_s, prefetch=ahead)
        except ServerError as error:
            self._after_failure(error, mode)
            return True
        self._failures = 0
        self._note_answer()
        self._was_accepted = True
        if answer.claim is not None:
            self._begin(answer.claim)
            return True
        if mode is not Mode.FOREVER and not self._works and self._has_sent_all(delivered=delivered):
            return False
        held = wait_s > 0 and time.monotonic() - asked_at >= 0.9 * wait_s
        self._pause_between_claims(None if held else answer.pause_s, held=held)
        return True

    def _has_sent_all(self, *, delivered: bool) -> bool:
        """Return whether nothing waits on disk, or it was tried often enough for a run that is to end."""
        self._undelivered = 0 if delivered else self._undelivered + 1
        if self._undelivered >= _FAILURES_OF_A_SINGLE_RUN:
            _log.warning("What waits on disk is sent by the next run: %s.", self._settings.spool_dir)
        return delivered or self._undelivered >= _FAILURES_OF_A_SINGLE_RUN

    def _send_waiting(self) -> bool:
        """Send what waits on disk, beside the work in hand if there is any; return whether nothing waits.

        Before the claim of an idle worker it is tried in any case: the claim may bring the very request whose
        result waits here.
        """
        sent = self._outbox.begin_replay(patiently=bool(self._works))
        while not (sent.done() or self._works or self._shutdown.no_more):
            futures.wait([sent], _TICK_S)
            self._tick()
        return sent.done() and sent.result()

    def _after_failure(self, error: ServerError, mode: Mode) -> None:
        if not self._works and self._is_final(error, mode):
            raise error
        after_s = error.retry_after_s if isinstance(error, RefusedError) else None
        delay_s = self._backoff.delay(self._failures, after_s or 0.0)
        self._failures += 1
        self._is_unanswered = True
        _log.warning("No answer to a claim; next try in %.0f s. %s", delay_s, error)
        self._sleep(delay_s)

    def _note_answer(self) -> None:
        """Say once that claims are answered again, which the warnings before leave open."""
        if self._shutdown.no_more:  # a claim that was broken off looks like one without work
            return
        if self._is_unanswered:
            _log.info("Orthanc answers claims again.")
        self._is_unanswered = False

    def _after_refusal(self, refusal: SourceUnauthorizedError, mode: Mode) -> None:
        """Wait: the next claim brings the very request that went back, and no attempt ends that."""
        self._refusal = None
        if not self._works and mode is not Mode.FOREVER and self._refusals >= _FAILURES_OF_A_SINGLE_RUN:
            raise UnauthorizedError(str(refusal)) from refusal
        delay_s = self._backoff.delay(self._refusals - 1)
        _log.warning("%d slide(s) in a row are not read; next claim in %.0f s.", self._refusals, delay_s)
        self._sleep(delay_s)

    def _is_final(self, error: ServerError, mode: Mode) -> bool:
        """Return whether claiming again is of no use."""
        if mode is not Mode.FOREVER and self._failures >= _FAILURES_OF_A_SINGLE_RUN:
            return True
        refused = isinstance(error, UnauthorizedError | RefusedError) and not isinstance(error, BusyError)
        return refused and not self._was_accepted

    def _pause_between_claims(self, pause_s: float | None, *, held: bool) -> None:
        """Ask again at once after a poll that was held; after a refused one wait as the server says.

        A pause after a held poll would only delay who submits in it.
        """
        if self._works:
            self._sleep(max(_AHEAD_PAUSE_S, pause_s or 0.0))
        elif not held:
            self._sleep(self._settings.poll_interval_s if pause_s is None else pause_s)

    def _sleep(self, seconds: float) -> None:
        """Wait between claims; where a request is in hand, no longer than it is."""
        ahead = bool(self._works)
        until = time.monotonic() + seconds
        while not self._shutdown.no_more and (left := until - time.monotonic()) > 0:
            self._tick()
            if ahead and not self._works:
                return
            self._shutdown.requested.wait(min(left, _TICK_S))

    def _begin(self, claim: Claim) -> None:
        self._served += 1
        work = Work(claim, self._make_client, self._work, self._drain)
        self._works.append(work)
        self._show_pulse()
        work.start()

    def _tick(self) -> None:
        """Look after the requests in hand: stop them where a shutdown asks for that, let go what is over."""
        for work in list(self._works):
            if self._must_hand_back(work):
                work.hand_back()
            if work.is_over or work.is_stuck:
                self._let_go(work)
        self._show_pulse()

    def _let_go(self, work: Work) -> None:
        self._abandoned = self._abandoned or work.is_stuck
        # Claims ahead that failed meanwhile are not counted against a run that is to end by itself.
        self._failures = 0
        self._refusal = work.refusal
        self._refusals = 0 if work.refusal is None else self._refusals + 1
        self._works.remove(work)
        work.close()

    def _show_pulse(self) -> None:
        if self._works:
            # The first one alone: the next one waits for it, and would hide that it hangs.
            first = self._works[0]
            self._pulse.working(first.claim.request_id, first.control.position)
        else:
            self._pulse.idle()

    def _wait_for_work(self) -> None:
        if self._works:
            self._works[0].wait(_TICK_S)
        self._tick()

    def _work(self, work: Work) -> None:
        """Work on a request, in a thread of its own."""
        claim, control = work.claim, work.control
        with request_context(claim.request_id):
            view = self._make_view()
            try:
                delivery = self._job.run(claim, control, view)
                control.report_publishing()
                self._send(delivery, control)
            except JobStoppedError as stopped:
                _log.info("The work was dropped (%s).", stopped.reason.value)
            except SourceUnauthorizedError as error:
                _log.error("The slide is not read, and the request goes back uncounted: %s", error)
                work.go_back(error)
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

        fate = self._outbox.deliver(delivery, on_sent, begun)
        if fate is Fate.ARRIVED:
            what = "result" if "result" in delivery.body else "error"
            _log.info("The %s has arrived (%.1f s).", what, time.monotonic() - begun)

    def _must_hand_back(self, work: Work) -> bool:
        """Return whether a shutdown means this request, too; one that is not begun goes back in any case."""
        asked, at_once = self._shutdown.requested.is_set(), self._shutdown.at_once.is_set()
        first_suffices = self._settings.shutdown is Shutdown.HANDBACK
        return at_once or (asked and first_suffices) or (self._shutdown.no_more and work.control.prefetch)

    def _drain(self) -> None:
        if not self._shutdown.drained.is_set():
            _log.info("A person asked this worker to take no further requests.")
        self._shutdown.drain()
