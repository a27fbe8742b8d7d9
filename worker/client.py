# SPDX-License-Identifier: Apache-2.0
"""HTTP client of the plugin's contract (``docs/rest.md``).

Every call that a worker makes may be repeated safely: a claim repeats its token, a heartbeat says the same
again, an artifact and a completion carry the same bytes. So a call whose answer was lost is sent again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests

from worker import API_VERSION, __version__
from worker.backoff import Backoff
from worker.contract import (
    ArtifactRef,
    ClaimAnswer,
    HeartbeatAnswer,
    Lease,
    ModelOffer,
    new_token,
    parse_claim,
    parse_heartbeat,
)
from worker.errors import BusyError, RefusedError, ServerError, UnreachableError
from worker.settings import Credentials, Settings
from worker.transport import make_session, refusal, retry_after, unreachable

CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".npz": "application/octet-stream",
    ".h5": "application/x-hdf5",
    ".dcm": "application/dicom",
}
"""Content types of artifacts by the end of their names, as the contract lists them."""

_TEXT_LIMIT = 200
"""Characters of a stage or a detail that the server takes."""

_LEAST_HEARTBEAT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Retry:
    """How often a call is repeated.

    Attributes
    ----------
    attempts
        Tries in all.
    backoff
        Waits between them; the first repeat of a dropped connection does not wait at all.
    """

    attempts: int = 4
    backoff: Backoff = field(default_factory=Backoff)


ONCE = Retry(attempts=1)
_PROCESS = new_token()
"""Tells this process from another one that has the same WORKER_ID."""


class PluginClient:
    """The contract's routes as methods.

    One client serves one thread.

    Parameters
    ----------
    settings
        Addresses and time-outs.
    credentials
        The user to act as.
    session
        The HTTP session; by default a new one for `credentials`.
    retry
        How often a call is repeated.
    wait
        Waits the given seconds and returns True where waiting was cut short and no repeat is wanted; by
        default an event that nobody sets.
    counters
        What claims and heartbeats tell of the worker in passing.
    told_time
        Takes the Date of each answer to a claim, or None where it has none.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials | None,
        *,
        session: requests.Session | None = None,
        retry: Retry | None = None,
        wait: Callable[[float], bool] | None = None,
        counters: Callable[[], Mapping[str, float]] = dict,
        told_time: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._session = session if session is not None else make_session(credentials)
        self._retry = retry if retry is not None else Retry()
        self._counters = counters
        self._told_time = told_time
        self._wait = wait if wait is not None else threading.Event().wait

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def claim(
        self,
        token: str,
        offers: Sequence[ModelOffer],
        default_model: str | None,
        *,
        device: str,
        wait_s: float,
        prefetch: bool = False,
    ) -> ClaimAnswer:
        """Ask for a request to work on; with `prefetch` for the next one, while another is in hand.

        Raises
        ------
        ServerError
            If no usable answer came. Nothing is lost: repeat with the same token.
        """
        body = {
            "worker_id": self._settings.worker_id,
            "token": token,
            "api": API_VERSION,
            "wait": wait_s,
            "models": [offer.as_json() for offer in offers],
            "default_model": default_model,
            "software": __version__,
            "device": device,
            "process": _PROCESS,
            **({"prefetch": True} if prefetch else {}),
            **self._counted(),
        }
        answer = self._send(
            "POST", "/claim", json_body=body, read_s=self._settings.read_timeout_s + wait_s, retry=ONCE
        )
        self._told_time(answer.headers.get("Date"))
        if answer.status_code == 204:
            drained, shares_name = (
                answer.headers.get(f"X-Pathology-{name}") == "true" for name in ("Drain", "Shared-Name")
            )
            return ClaimAnswer(None, retry_after(answer), drained, shares_name)
        document = _document(answer)
        pause = document.get("retry_after_s")
        pause_s = float(pause) if isinstance(pause, int | float) else None
        return ClaimAnswer(parse_claim(document, token), pause_s)

    def leave(self) -> None:
        """Say goodbye: the server counts this worker as gone at once instead of after its silence.

        Raises
        ------
        ServerError
            If the server did not hear it; then the silence tells it.
        """
        body = {
            "worker_id": self._settings.worker_id,
            "token": new_token(),
            "api": API_VERSION,
            "models": [],
            "leaving": True,
            "process": _PROCESS,
            **self._counted(),
        }
        self._send("POST", "/claim", json_body=body, read_s=_LEAST_HEARTBEAT_TIMEOUT_S, retry=ONCE)

    def heartbeat(
        self,
        request_id: str,
        lease: Lease,
        *,
        stage: str,
        progress: float,
        detail: str,
        prefetch: bool = False,
    ) -> HeartbeatAnswer:
        """Keep the lease and say how far the work is; without `prefetch` the slide is begun.

        Raises
        ------
        LeaseLostError, RequestGoneError
            If the work must be dropped.
        ServerError
            If no usable answer came.
        """
        body = self._lease_body(
            lease,
            status="processing",
            stage=stage[:_TEXT_LIMIT],
            progress=round(progress, 4),
            **self._counted(),
        )
        if detail:
            body["detail"] = detail[:_TEXT_LIMIT]
        if prefetch:
            body["prefetch"] = True
        # A connection that died in silence (NAT forgets idle ones) must cost one heartbeat, not the lease.
        patience_s = max(_LEAST_HEARTBEAT_TIMEOUT_S, lease.heartbeat_s)
        answer = self._send(
            "POST",
            f"/update-status/{request_id}/",
            json_body=body,
            read_s=min(self._settings.read_timeout_s, patience_s),
        )
        return parse_heartbeat(_document(answer))

    def hand_back(self, request_id: str, lease: Lease, *, retry: Retry | None = None) -> None:
        """Return the lease, so that another worker takes the request now."""
        body = self._lease_body(lease, status="pending")
        self._send("POST", f"/update-status/{request_id}/", json_body=body, retry=retry)

    def confirm_cancel(self, request_id: str, lease: Lease) -> None:
        """Say that the work was dropped because a person asked for it."""
        body = self._lease_body(lease, status="cancelled")
        self._send("POST", f"/update-status/{request_id}/", json_body=body)

    def put_artifact(self, request_id: str, lease: Lease, name: str, data: bytes) -> None:
        """Send one artifact.

        Raises
        ------
        ServerError
            If it was refused, could not be sent, or arrived as something else.
        """
        headers = {
            "Content-Type": CONTENT_TYPES[name[name.rfind(".") :]],
            "X-Pathology-Token": lease.token,
            "X-Pathology-Fence": str(lease.fence),
        }
        answer = self._send("PUT", f"/requests/{request_id}/artifacts/{name}", data=data, headers=headers)
        stored = _document(answer).get("artifact") or {}
        expected = ArtifactRef.of(name, data)
        if stored.get("sha256", expected.sha256) != expected.sha256:
            raise ServerError(f"{name} arrived damaged: check the proxy between this worker and Orthanc.")

    def complete(self, request_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send the end of a request, a result or an error; the same body may be sent again at any time."""
        answer = self._send("POST", f"/complete-request/{request_id}/", json_body=body)
        return dict(_document(answer).get("request") or {})

    def submit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Submit an analysis as a person.

        A forced submission is not repeated when its answer is lost: that could start two analyses.
        """
        return _document(
            self._send("POST", "/analyze", json_body=body, retry=ONCE if body.get("force") else None)
        )

    def get_request(
        self, request_id: str, *, wait_s: float = 0.0, version: str | None = None
    ) -> dict[str, Any]:
        """Return one request; with `wait_s` the answer is held until its version differs from `version`."""
        params = {"wait": f"{wait_s:g}", "version": version} if version is not None and wait_s > 0 else {}
        answer = self._send(
            "GET", f"/requests/{request_id}", params=params, read_s=self._settings.read_timeout_s + wait_s
        )
        return dict(_document(answer)["request"])

    def list_requests(self, filters: Mapping[str, str]) -> dict[str, Any]:
        """Return a page of the list of requests."""
        return _document(self._send("GET", "/requests/", params=filters))

    def list_workers(self) -> list[dict[str, Any]]:
        """Return every worker that the server has heard of since its start."""
        return list(_document(self._send("GET", "/workers")).get("workers") or [])

    def health(self) -> dict[str, Any]:
        """Return what the plugin says about itself."""
        return _document(self._send("GET", "/health"))

    def _counted(self) -> dict[str, Any]:
        counters = self._counters()
        return {"counters": dict(counters)} if counters else {}

    def _lease_body(self, lease: Lease, **fields: Any) -> dict[str, Any]:
        return {"worker_id": self._settings.worker_id, "token": lease.token, "fence": lease.fence, **fields}

    def _send(
        self,
        method: str,
        path: str,
        *,
        json_body: Mapping[str, Any] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        read_s: float | None = None,
        retry: Retry | None = None,
    ) -> requests.Response:
        """Send a call, again and again within bounds, and raise for everything that is not 2xx."""
        sent_headers = dict(headers or {})
        if json_body is not None:
            data = json.dumps(json_body, allow_nan=False).encode()
            sent_headers["Content-Type"] = "application/json"
        read_s = self._settings.read_timeout_s if read_s is None else read_s
        call = _Call(method, self._settings.api_url + path, data, sent_headers, dict(params or {}), read_s)
        return self._repeat(call, retry or self._retry)

    def _repeat(self, call: _Call, retry: Retry) -> requests.Response:
        failures = 0
        while True:
            try:
                return self._once(call)
            except (UnreachableError, BusyError) as error:
                failures += 1
                if failures >= retry.attempts or self._wait(_pause(error, failures, retry.backoff)):
                    raise

    def _once(self, call: _Call) -> requests.Response:
        try:
            answer = self._session.request(
                call.method,
                call.url,
                data=call.data,
                headers=call.headers,
                params=call.params,
                timeout=(self._settings.connect_timeout_s, call.read_s),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise unreachable(self._settings.api_url, error) from error
        if 200 <= answer.status_code < 300:
            return answer
        raise refusal(answer, self._settings.api_url)


@dataclass(frozen=True)
class _Call:
    method: str
    url: str
    data: bytes | None
    headers: dict[str, str]
    params: dict[str, str]
    read_s: float


def _pause(error: ServerError, failures: int, backoff: Backoff) -> float:
    if isinstance(error, UnreachableError) and error.dropped and failures == 1:
        return 0.0
    after = error.retry_after_s if isinstance(error, RefusedError) else None
    return backoff.delay(failures - 1, after or 0.0)


def _document(answer: requests.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ServerError(
            "The answer is not JSON: check that the address is the plugin's and no proxy's page."
        )
    return document
