# SPDX-License-Identifier: AGPL-3.0-or-later
"""The leases that are held now, and what their workers said last: in memory alone, a restart begins anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import values
from .values import AnalysisRequest, replaced


@dataclass(frozen=True)
class Lease:
    """Time that a worker has for its next sign of life, on the monotonic clock."""

    fence: int
    expires_at: float


@dataclass(frozen=True)
class Live:
    """How far the work on a request is, as the last heartbeat said; `progress` in 0 to 1.

    A member more here is one more thing that wakes everybody who waits for a change of the request.
    """

    stage: str | None = None
    progress: float | None = None
    detail: str | None = None


NOTHING_SAID = Live()


class HeldLeases:
    """One lease for each request that is being worked on; whoever uses it holds the index' lock."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._live: dict[str, Live] = {}
        self._request_of: dict[str, str] = {}
        self._token_of: dict[str, str] = {}

    def follow(self, request: AnalysisRequest, lease_for: Callable[[AnalysisRequest], Lease]) -> None:
        """Begin a lease where a request has been granted anew, end it where nobody works on it any more."""
        request_id = request.request_id
        if request.status != values.PROCESSING:
            self.end(request_id)
            return
        lease = self._leases.get(request_id)
        if lease is None or lease.fence != request.fence:
            self.end(request_id)
            token = request.grants[-1].token_sha256
            self._leases[request_id] = lease_for(request)
            self._request_of[token] = request_id
            self._token_of[request_id] = token

    def end(self, request_id: str) -> None:
        """Forget a lease where there is one."""
        if self._leases.pop(request_id, None) is not None:
            self._live.pop(request_id, None)
            token = self._token_of.pop(request_id)
            if self._request_of.get(token) == request_id:  # a token may have been used for two
                del self._request_of[token]

    def renew(self, request_id: str, fence: int, expires_at: float, live: Live) -> bool:
        """Give a lease more time, and keep what its heartbeat said; tell whether that is news."""
        lease = self._leases.get(request_id)
        if lease is None or lease.fence != fence:
            return False
        self._leases[request_id] = replaced(lease, expires_at=expires_at)
        if live == self._live.get(request_id):
            return False
        self._live[request_id] = live
        return True

    def get(self, request_id: str) -> Lease | None:
        """Return the lease of a request, or None."""
        return self._leases.get(request_id)

    def live(self, request_id: str) -> Live:
        """Return what the last heartbeat said."""
        return self._live.get(request_id, NOTHING_SAID)

    def request_of_token(self, token_sha256: str) -> str | None:
        """Return the id of the request that is held under a token, or None."""
        return self._request_of.get(token_sha256)

    def overdue(self, monotonic: float) -> list[str]:
        """Return the ids of the requests whose lease has run out."""
        return [request_id for request_id, lease in self._leases.items() if lease.expires_at <= monotonic]
