# SPDX-License-Identifier: Apache-2.0
"""HTTP client of the plugin's contract (``docs/rest.md``): its routes as methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from worker import API_VERSION, __version__
from worker.backoff import Wait, uninterrupted
from worker.errors import ForeignAnswerError, RefusedError
from worker.settings import Credentials, Settings

from .calls import ONCE, Calls, Retry
from .contract import (
    ArtifactRef,
    ClaimAnswer,
    HeartbeatAnswer,
    Lease,
    ModelOffer,
    new_token,
    parse_claim,
    parse_heartbeat,
)
from .transport import contract_document, retry_after

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
    retry
        How often a call is repeated.
    wait
        Waits between repeats.
    counters
        What claims and heartbeats tell of the worker in passing.
    told_time
        Takes the Date of each answer to a claim, or None where it has none.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials | None,
        *,
        retry: Retry | None = None,
        wait: Wait = uninterrupted,
        counters: Callable[[], Mapping[str, float]] = dict,
        told_time: Callable[[str | None], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._retry = retry if retry is not None else Retry()
        self._calls = Calls(settings, credentials, self._retry, wait=wait, clock=clock)
        self._counters = counters
        self._told_time = told_time

    def close(self) -> None:
        """Close the connections."""
        self._calls.close()

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
        body = self._claim_body(
            token,
            wait=wait_s,
            models=[offer.as_json() for offer in offers],
            default_model=default_model,
            software=__version__,
            device=device,
            **({"prefetch": True} if prefetch else {}),
        )
        answer = self._calls.send(
            "POST", "/claim", json_body=body, read_s=self._settings.read_timeout_s + wait_s, retry=ONCE
        )
        self._told_time(answer.headers.get("Date"))
        if answer.status_code == 204:
            drained, shares_name = (
                answer.headers.get(f"X-Pathology-{name}") == "true" for name in ("Drain", "Shared-Name")
            )
            return ClaimAnswer(None, retry_after(answer), drained, shares_name)
        document = contract_document(answer, self._settings.api_url)
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
        body = self._claim_body(new_token(), models=[], leaving=True)
        self._calls.send("POST", "/claim", json_body=body, read_s=_LEAST_HEARTBEAT_TIMEOUT_S, retry=ONCE)

    def longest_claim_s(self, wait_s: float) -> float:
        """Return the seconds in which a claim that may be held for `wait_s` has an answer, or has failed."""
        settings = self._settings
        return settings.connect_timeout_s + 2 * (settings.read_timeout_s + wait_s)

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
        # A connection that died in silence (NAT forgets idle ones), or a server that wants to be left alone,
        # must cost one heartbeat, not the lease: the next one is the repeat.
        patience_s = max(_LEAST_HEARTBEAT_TIMEOUT_S, lease.heartbeat_s)
        document = self._calls.ask(
            "POST",
            f"/update-status/{request_id}/",
            json_body=body,
            read_s=min(self._settings.read_timeout_s, patience_s),
            retry=replace(self._retry, within_s=patience_s),
        )
        return parse_heartbeat(document)

    def hand_back(self, request_id: str, lease: Lease, *, retry: Retry | None = None) -> None:
        """Return the lease, so that another worker takes the request now."""
        body = self._lease_body(lease, status="pending")
        self._calls.ask("POST", f"/update-status/{request_id}/", json_body=body, retry=retry)

    def confirm_cancel(self, request_id: str, lease: Lease) -> None:
        """Say that the work was dropped because a person asked for it."""
        body = self._lease_body(lease, status="cancelled")
        self._calls.ask("POST", f"/update-status/{request_id}/", json_body=body)

    def put_artifact(
        self, request_id: str, lease: Lease, name: str, data: bytes, *, retry: Retry | None = None
    ) -> None:
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
        document = self._calls.ask(
            "PUT", f"/requests/{request_id}/artifacts/{name}", data=data, headers=headers, retry=retry
        )
        stored = self._member(document, "artifact")
        expected = ArtifactRef.of(name, data)
        if stored.get("sha256", expected.sha256) != expected.sha256:
            raise RefusedError(
                200,
                "artifact_mismatch",
                f"{name} arrived damaged: check the proxy between this worker and Orthanc.",
            )

    def complete(
        self, request_id: str, body: Mapping[str, Any], *, retry: Retry | None = None
    ) -> dict[str, Any]:
        """Send the end of a request, a result or an error; the same body may be sent again at any time."""
        document = self._calls.ask("POST", f"/complete-request/{request_id}/", json_body=body, retry=retry)
        return self._member(document, "request")

    def submit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Submit an analysis as a person.

        A forced submission is not repeated when its answer is lost: that could start two analyses.
        """
        return self._calls.ask("POST", "/analyze", json_body=body, retry=ONCE if body.get("force") else None)

    def get_request(
        self, request_id: str, *, wait_s: float = 0.0, version: str | None = None
    ) -> dict[str, Any]:
        """Return one request; with `wait_s` the answer is held until its version differs from `version`."""
        params = {"wait": f"{wait_s:g}", "version": version} if version is not None and wait_s > 0 else {}
        read_s = self._settings.read_timeout_s + wait_s
        document = self._calls.ask("GET", f"/requests/{request_id}", params=params, read_s=read_s)
        return self._member(document, "request")

    def decide(self, request_id: str, decision: str) -> dict[str, Any]:
        """Carry out a person's decision about a request, ``cancel`` or ``retry``, and return the request."""
        document = self._calls.ask("POST", f"/requests/{request_id}/{decision}", json_body={})
        return self._member(document, "request")

    def list_requests(self, filters: Mapping[str, str]) -> dict[str, Any]:
        """Return a page of the list of requests."""
        return self._calls.ask("GET", "/requests/", params=filters)

    def list_workers(self) -> list[dict[str, Any]]:
        """Return every worker that the server has heard of since its start."""
        return list(self._calls.ask("GET", "/workers").get("workers") or [])

    def health(self) -> dict[str, Any]:
        """Return what the plugin says about itself."""
        return self._calls.ask("GET", "/health")

    def _counted(self) -> dict[str, Any]:
        counters = self._counters()
        return {"counters": dict(counters)} if counters else {}

    def _claim_body(self, token: str, **members: Any) -> dict[str, Any]:
        return {
            "worker_id": self._settings.worker_id,
            "token": token,
            "api": API_VERSION,
            "process": _PROCESS,
            **members,
            **self._counted(),
        }

    def _lease_body(self, lease: Lease, **fields: Any) -> dict[str, Any]:
        return {"worker_id": self._settings.worker_id, "token": lease.token, "fence": lease.fence, **fields}

    def _member(self, document: Mapping[str, Any], name: str) -> dict[str, Any]:
        member = document.get(name)
        if not isinstance(member, dict):
            raise ForeignAnswerError(
                f"An answer of {self._settings.api_url} lacks its {name}: check the proxy in between, and "
                "that plugin and worker are of one version."
            )
        return member
