# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tells one other server when a request has ended; best effort, in a thread of its own.

Messages and their signature follow https://www.standardwebhooks.com: receivers find libraries for that.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping

from .clock import Clock
from .presentation import views
from .queue import values
from .queue.values import AnalysisRequest
from .webhook_client import DeliveryError, Endpoint, Message

ENDED = frozenset({values.COMPLETED, values.FAILED, values.CANCELLED, values.WITHDRAWN})
CAPACITY = 100
"""Messages that wait; what ends while so many do is not told."""
PAUSES_S = (1.0, 5.0)
"""Before the second and the third attempt, which is the last."""
_LOOK_S = 0.5


Send = Callable[[Endpoint, Message, Mapping[str, str]], None]


def message_of(request: AnalysisRequest) -> Message:
    """Return what is told of a request: ids, state and model, nothing of the patient or of the result."""
    value = {
        "type": f"request.{request.status}",
        "timestamp": views.iso(request.updated),
        "data": {
            "request_id": request.request_id,
            "status": request.status,
            "model": request.bound_model.name or None,
            "series": request.series,
        },
    }
    return Message(f"msg_{uuid.uuid4().hex}", json.dumps(value, separators=(",", ":")).encode("utf-8"))


def signed_headers(message: Message, key: bytes, now: float) -> dict[str, str]:
    """Return the headers by which the receiver tells that a message is ours and new.

    The signature is the HMAC-SHA-256 of ``ID.TIMESTAMP.BODY`` in Base64, behind its version ``v1,``.
    """
    stamp = str(int(now))
    signed = b".".join((message.message_id.encode("ascii"), stamp.encode("ascii"), message.body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message.message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode('ascii')}",
    }


class Webhook:
    """A queue of messages and the thread that sends them; nobody else ever waits for the receiver.

    Parameters
    ----------
    endpoint
        Where they go.
    send
        Makes one attempt; raises `DeliveryError`.
    clock
        Time.
    warn
        Takes a sentence for the server's log.
    """

    def __init__(self, endpoint: Endpoint, send: Send, clock: Clock, warn: Callable[[str], None]) -> None:
        self._endpoint = endpoint
        self._send = send
        self._clock = clock
        self._warn = warn
        self._waiting: queue.Queue[tuple[str, Message]] = queue.Queue(CAPACITY)
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def tell(self, before: AnalysisRequest | None, after: AnalysisRequest) -> None:
        """Queue a message where a request has just ended; never waits."""
        if after.status not in ENDED or (before is not None and before.status == after.status):
            return
        what = f"request {after.request_id} is {after.status}"
        try:
            self._waiting.put_nowait((what, message_of(after)))
        except queue.Full:
            self._count("dropped")
            self._warn(f"The webhook was not told that {what}: {CAPACITY} messages wait already.")

    def run(self, stopping: threading.Event) -> None:
        """Send what is queued until the server stops; what waits then is lost, and said so."""
        while not stopping.is_set():
            try:
                what, message = self._waiting.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            self._deliver(what, message, stopping)
        if left := self._waiting.qsize():
            self._warn(f"The webhook was not told of {left} more ends of requests: Orthanc stops.")

    def _deliver(self, what: str, message: Message, stopping: threading.Event) -> None:
        for pause_s in (*PAUSES_S, None):
            try:
                self._send(
                    self._endpoint, message, signed_headers(message, self._endpoint.key, self._clock.now())
                )
            except DeliveryError as error:
                if error.passes and pause_s is not None and not stopping.wait(pause_s):
                    continue
                self._count("failed")
                self._warn(f"The webhook was not told that {what}: {error}")
                return
            self._count("delivered")
            return

    def _count(self, outcome: str) -> None:
        with self._lock:
            self._counts[outcome] += 1

    def counts(self) -> dict[str, int]:
        """Return how many messages were delivered, failed and dropped since the start."""
        with self._lock:
            return {outcome: self._counts[outcome] for outcome in ("delivered", "dropped", "failed")}

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return self._waiting.qsize()
