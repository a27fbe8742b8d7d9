# SPDX-License-Identifier: AGPL-3.0-or-later
"""Older workers: they know no token and no claim, and take a request by reporting that they process it.

The first one wins. What it may do from then on hangs on its name (the `worker_id` that it sends, else its
user), so that two of one name are one to the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.fleet.workers import permits
from orthanc_plugin.queue import values
from orthanc_plugin.queue.held_leases import Live
from orthanc_plugin.queue.leases import is_due, lease_lost
from orthanc_plugin.queue.values import AnalysisRequest, Failure, sha256_hex

from .claim import Claim, Granted, try_grant
from .complete import Result, complete
from .core import Core, find, unavailable
from .report import Heartbeat, LeaseProof, Orders, confirm_cancel, hand_back, heartbeat


@dataclass(frozen=True)
class Older:
    """An older worker; `is_named` where it sent a name of its own."""

    worker_id: str
    user: str
    is_named: bool


def require_allowed(core: Core) -> None:
    """Raise the 400 of a missing token unless the site lets older workers work without."""
    if not core.settings.allow_tokenless:
        raise ApiError(
            400,
            "bad_request",
            "token is missing: 32 lower-case hexadecimal digits, made afresh by the worker for each claim. "
            "Workers that know none are let in by Pathology.AllowTokenless.",
            details={"field": "token"},
        )


def proof_of(core: Core, request_id: str, who: Older) -> LeaseProof:
    """Return what stands for the token and the fence that an older worker does not know."""
    request = find(core, request_id)
    return LeaseProof(who.worker_id, _digest(request_id, who), request.fence)


def _digest(request_id: str, who: Older) -> str:
    # No token hashes to this: tokens are 32 hexadecimal digits, and this text is longer.
    return sha256_hex(f"without a token: {request_id} {who.user} {who.worker_id}".encode())


def report(core: Core, request_id: str, who: Older, status: str, beat: Heartbeat) -> Orders:
    """Take what an older worker says of a request: that it begins, how far it is, or that it gives it back.

    Raises
    ------
    ApiError
        409 ``lease_lost`` where another worker has the request, ``wrong_state`` where nobody can begin it.
    """
    proof = proof_of(core, request_id, who)
    if status == values.PENDING:
        return hand_back(core, request_id, proof)
    if status == values.CANCELLED:
        return confirm_cancel(core, request_id, proof)
    request = find(core, request_id)
    if is_due(request, core.clock.now()):
        return _begin(core, request, who, beat)
    return _go_on(core, request_id, who, beat)


def _begin(core: Core, request: AnalysisRequest, who: Older, beat: Heartbeat) -> Orders:
    """Give the lease, confirmed at once: an older worker sends no heartbeat of its own accord."""
    if not permits(core.settings, request.bound_model):
        raise ApiError(422, "unknown_model", "This site does not let workers without a token run this model.")
    ask = Claim(who.worker_id, who.user, _digest(request.request_id, who), is_tokenless=True)
    if core.workers.drains(who.worker_id):
        raise ApiError(409, "wrong_state", "A person wants this worker to take nothing more.")
    try:
        given = try_grant(core, ask, request.request_id)
    except StorageError as error:
        raise unavailable(error) from error
    if not isinstance(given, Granted):
        if find(core, request.request_id).status == values.PROCESSING:  # begun in the meantime
            return _go_on(core, request.request_id, who, beat)
        raise ApiError(409, "wrong_state", "This request cannot be begun now. Take another one, or wait.")
    return heartbeat(core, request.request_id, proof_of(core, request.request_id, who), beat)


def _go_on(core: Core, request_id: str, who: Older, beat: Heartbeat) -> Orders:
    """Take a further report; one without a name that says nothing new is another worker's first."""
    if not who.is_named and beat.live == Live():
        raise lease_lost("A worker has begun this request already. Take another one.")
    return heartbeat(core, request_id, proof_of(core, request_id, who), beat)


def deliver(
    core: Core, request_id: str, who: Older, body_sha256: str, outcome: Mapping[str, Any] | Failure
) -> AnalysisRequest:
    """Take an older worker's result, of the content that it was given, or its reason for none.

    Raises
    ------
    ApiError
        As `complete`.
    """
    request = find(core, request_id)
    content = request.fingerprint if request.grant is None else request.grant.fingerprint
    delivered = outcome if isinstance(outcome, Failure) else Result(content, (), outcome)
    return complete(core, request_id, proof_of(core, request_id, who), body_sha256, delivered)
