# SPDX-License-Identifier: Apache-2.0
"""A worker that speaks the HTTP contract and brings a result of the test's choice."""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.support.orthanc_server import OrthancServer

MODEL = {"name": "oral-scc-demo", "version": "1", "sha256": "5" * 64}


@dataclass
class FakeWorker:
    """Claims, reports and completes as the user `worker`; every answer must be a success."""

    server: OrthancServer
    worker_id: str = "lab-1"
    model: dict[str, str] = field(default_factory=lambda: dict(MODEL))
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    claimed: dict[str, Any] = field(default_factory=dict)

    def claim(self, *, seconds: float = 20) -> dict[str, Any]:
        """Claim the next request, waiting for one; return the claim's answer."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self._ask(wait=5)
            if answer.status_code != 204:
                assert answer.status_code == 200, answer.text
                self.claimed = answer.json()
                return self.claimed
            time.sleep(0.1)
        raise AssertionError(f"nothing could be claimed within {seconds:.0f} s")

    def offer(self) -> None:
        """Let the server know of this worker and its model; there must be nothing to do."""
        assert self._ask(wait=0).status_code == 204

    def _ask(self, *, wait: int) -> requests.Response:
        body = {
            "worker_id": self.worker_id,
            "token": self.token,
            "api": 1,
            "wait": wait,
            "models": [self.model],
            "default_model": self.model["name"],
            "software": "0.1.0",
            "device": "cpu",
        }
        return self.server.post("/pathology/claim", auth=self.server.worker, json=body)

    @property
    def request_id(self) -> str:
        """Id of the claimed request."""
        return str(self.claimed["request"]["request_id"])

    def report(self, stage: str, progress: float, detail: str = "") -> dict[str, Any]:
        """Send a heartbeat with stage and progress; return its answer."""
        told = {"stage": stage, "progress": progress, **({"detail": detail} if detail else {})}
        return self._post("update-status", told)

    def put(self, name: str, content: bytes, content_type: str) -> dict[str, Any]:
        """Upload an artifact; return what completion has to say of it."""
        answer = self.server.request(
            "PUT",
            f"/pathology/requests/{self.request_id}/artifacts/{name}",
            auth=self.server.worker,
            data=content,
            headers={
                "Content-Type": content_type,
                "X-Pathology-Token": self.token,
                "X-Pathology-Fence": str(self.claimed["lease"]["fence"]),
            },
        )
        assert answer.status_code == 200, answer.text
        return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def complete(self, result: dict[str, Any], artifacts: list[dict[str, Any]]) -> dict[str, Any]:
        """Complete the request with a result."""
        return self._post(
            "complete-request",
            {
                "fingerprint": self.claimed["request"]["fingerprint"],
                "artifacts": artifacts,
                "result": result,
            },
        )

    def fail(self, code: str, message: str, *, retryable: bool = False) -> dict[str, Any]:
        """End the attempt with an error."""
        error = {"code": code, "message": message, "retryable": retryable}
        return self._post(
            "complete-request", {"fingerprint": self.claimed["request"]["fingerprint"], "error": error}
        )

    def ranges(self, instance_id: str, ranges: list[list[int]], **headers: str) -> requests.Response:
        """Read byte ranges of an instance."""
        return self.server.post(
            f"/pathology/instances/{instance_id}/ranges",
            auth=self.server.worker,
            json={"ranges": ranges},
            headers=headers,
        )

    def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        proof = {
            "worker_id": self.worker_id,
            "token": self.token,
            "fence": self.claimed["lease"]["fence"],
        }
        answer = self.server.post(
            f"/pathology/{route}/{self.request_id}/", auth=self.server.worker, json={**proof, **body}
        )
        assert answer.status_code == 200, answer.text
        value = answer.json()
        assert isinstance(value, dict)
        return value
