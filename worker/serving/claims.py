# SPDX-License-Identifier: Apache-2.0
"""Getting the next request: a long poll that a shutdown can end without leaving a lease behind."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from worker.api.calls import ONCE
from worker.api.client import PluginClient
from worker.api.contract import Claim, ClaimAnswer, new_token
from worker.errors import RefusedError, ServerError, UnreachableError
from worker.jobs.job import Analyzer

_log = logging.getLogger(__name__)

_TICK_S = 0.2
"""How late a shutdown may be noticed; an answer is noticed at once."""


class Claimer:
    """Claims requests for the models that an analyzer offers.

    Parameters
    ----------
    make_client
        Makes a client; the long poll and its end need one each.
    analyzer
        Says which models run here.
    should_end
        Whether waiting must end now.
    on_tick
        Called again and again while a claim waits.
    """

    def __init__(
        self,
        make_client: Callable[[], PluginClient],
        analyzer: Analyzer,
        should_end: Callable[[], bool],
        on_tick: Callable[[], None],
    ) -> None:
        self._make_client = make_client
        self._poll_client = make_client()
        self._analyzer = analyzer
        self._should_end = should_end
        self._on_tick = on_tick
        self._token = new_token()
        self._is_drained = False
        self._shares_name = False

    def claim(self, wait_s: float, *, prefetch: bool = False) -> ClaimAnswer:
        """Ask once, for up to `wait_s` seconds; with `prefetch` for the slide after the one in hand.

        The token stays the same until an answer came, so a lost answer is asked for again, not twice.

        Raises
        ------
        ServerError
            If no usable answer came.
        """
        answers: queue.Queue[ClaimAnswer | Exception] = queue.Queue()
        thread = threading.Thread(
            target=self._poll, args=(wait_s, prefetch, answers), name="claim", daemon=True
        )
        thread.start()
        give_up_at = time.monotonic() + self._poll_client.longest_claim_s(wait_s)
        while True:
            try:
                answer = answers.get(timeout=_TICK_S)
            except queue.Empty:
                self._on_tick()
                if self._should_end():
                    self._end_poll()
                    return ClaimAnswer(None, None)
                if time.monotonic() > give_up_at:
                    raise self._abandoned_poll() from None
                continue
            if isinstance(answer, Exception):
                raise answer
            return self._settled(answer)

    def _abandoned_poll(self) -> UnreachableError:
        """Leave a poll alone whose answer drips in and never ends, with the client that waits for it."""
        self._poll_client.close()
        self._poll_client = self._make_client()
        return UnreachableError("The answer to a claim never ends: check the proxy in between.")

    def _settled(self, answer: ClaimAnswer) -> ClaimAnswer:
        """Begin with a new token; what arrives when nothing more may be taken goes back at once."""
        self._token = new_token()
        self._note_drain(drained=answer.drained)
        self._note_name(shared=answer.shares_name)
        if answer.claim is not None and self._should_end():
            self._hand_back(self._make_client(), answer.claim)
            return ClaimAnswer(None, None)
        return answer

    def _note_drain(self, *, drained: bool) -> None:
        """Say once that nothing is given to this worker, and once that it is again."""
        if drained and not self._is_drained:
            _log.warning("A person has drained this worker: it is given nothing until that is ended.")
        if self._is_drained and not drained:
            _log.info("The drain of this worker was ended: it is given requests again.")
        self._is_drained = drained

    def _note_name(self, *, shared: bool) -> None:
        if shared and not self._shares_name:
            _log.warning(
                "Another worker asks for work under this worker's name: the server takes one for the other. "
                "Give each a WORKER_ID of its own."
            )
        self._shares_name = shared or self._shares_name

    def leave(self) -> None:
        """Tell the server that this worker ends; where it does not hear that, the silence tells it."""
        client = self._make_client()
        try:
            client.leave()
        except ServerError as error:
            _log.debug("The server was not told that this worker ends: %s", error)
        finally:
            client.close()

    def _poll(
        self,
        wait_s: float,
        prefetch: bool,  # noqa: FBT001 - the arguments of a thread
        answers: queue.Queue[ClaimAnswer | Exception],
    ) -> None:
        try:
            answers.put(self._ask(self._poll_client, wait_s, prefetch=prefetch))
        except Exception as error:  # noqa: BLE001 - the boundary of the thread; raised again by who waits
            answers.put(error)

    def _ask(self, client: PluginClient, wait_s: float, *, prefetch: bool = False) -> ClaimAnswer:
        return client.claim(
            self._token,
            self._analyzer.offers,
            self._analyzer.default_model,
            device=self._analyzer.device,
            wait_s=wait_s,
            prefetch=prefetch,
        )

    def _end_poll(self) -> None:
        """End the open long poll: a second claim under its token ends it, and shows what it may have won."""
        client = self._make_client()
        try:
            claim = self._ask(client, 0).claim
        except RefusedError as error:
            _log.debug("The last claim was refused: %s", error)
        except ServerError as error:
            _log.warning("The server was not told that this worker ends: %s", error)
        else:
            if claim is not None:
                self._hand_back(client, claim)
        finally:
            client.close()

    def _hand_back(self, client: PluginClient, claim: Claim) -> None:
        try:
            client.hand_back(claim.request_id, claim.lease, retry=ONCE)
            _log.info("A request that arrived during the shutdown was handed back.")
        except ServerError as error:
            _log.warning("A request could not be handed back; its lease expires by itself: %s", error)
