# SPDX-License-Identifier: AGPL-3.0-or-later
"""A person and workers that speak the contract, for tests."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from tests.support.sites import WORKER, Answer, Site, Slide

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 20
RESULT: dict[str, Any] = {
    "predicted_class": "oscc",
    "probabilities": {"normal": 0.08, "oscc": 0.92},
    "quality": {"status": "ok", "flags": []},
}


def named(name: str, content: bytes) -> dict[str, Any]:
    """Return an artifact as a completion names it."""
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def new_token() -> str:
    return secrets.token_hex(16)


@dataclass
class Lease:
    """What a worker holds after a claim."""

    site: Site
    worker_id: str
    token: str
    claimed: dict[str, Any]

    @property
    def request_id(self) -> str:
        return str(self.claimed["request"]["request_id"])

    @property
    def fence(self) -> int:
        return int(self.claimed["lease"]["fence"])

    @property
    def proof(self) -> dict[str, Any]:
        return {"worker_id": self.worker_id, "token": self.token, "fence": self.fence}

    def heartbeat(self, **members: Any) -> Answer:
        body = {**self.proof, "status": "processing", **members}
        return self.site.call("POST", f"/pathology/update-status/{self.request_id}/", user=WORKER, body=body)

    def hand_back(self) -> Answer:
        return self.heartbeat(status="pending")

    def put(self, name: str, content: bytes, content_type: str = "image/png") -> Answer:
        return self.site.call(
            "PUT",
            f"/pathology/requests/{self.request_id}/artifacts/{name}",
            user=WORKER,
            data=content,
            headers={
                "Content-Type": content_type,
                "X-Pathology-Token": self.token,
                "X-Pathology-Fence": str(self.fence),
            },
        )

    def body(self, *artifacts: dict[str, Any], **members: Any) -> dict[str, Any]:
        return {
            **self.proof,
            "fingerprint": self.claimed["request"]["fingerprint"],
            "artifacts": list(artifacts),
            "result": RESULT,
            **members,
        }

    def send(self, body: dict[str, Any]) -> Answer:
        return self.site.call(
            "POST", f"/pathology/complete-request/{self.request_id}/", user=WORKER, body=body
        )

    def complete(self, *artifacts: dict[str, Any], **members: Any) -> Answer:
        return self.send(self.body(*artifacts, **members))

    def fail(self, code: str = "gpu_lost", *, retryable: bool = True) -> Answer:
        error = {"code": code, "message": "It went wrong.", "retryable": retryable}
        return self.send({**self.proof, "error": error})


@dataclass
class Queue:
    """One test's part of a site: a model of its own, so that no other test's requests get in the way."""

    site: Site
    model: str = field(default_factory=lambda: f"model-{secrets.token_hex(4)}")

    def submit(self, slide: Slide, **members: Any) -> Answer:
        body = {"series": slide.series, "model": self.model, **members}
        return self.site.call("POST", "/pathology/analyze", body=body)

    def submitted(self, slide: Slide | None = None, **members: Any) -> str:
        answer = self.submit(slide or self.site.new_slide(), **members)
        assert answer.status == 201, answer.body
        return str(answer.json["request_id"])

    def try_claim(
        self, worker_id: str | None = None, *, token: str | None = None, wait: float = 0, **members: Any
    ) -> Answer:
        body = {
            "worker_id": worker_id or f"{self.model}-a",
            "token": token or new_token(),
            "api": 1,
            "wait": wait,
            "models": [{"name": self.model, "version": "1"}],
            **members,
        }
        return self.site.call("POST", "/pathology/claim", user=WORKER, body=body)

    def claim(self, worker_id: str | None = None, **members: Any) -> Lease:
        token = members.pop("token", None) or new_token()
        answer = self.try_claim(worker_id, token=token, **members)
        assert answer.status == 200, (answer.status, answer.body)
        return Lease(self.site, worker_id or f"{self.model}-a", token, answer.json)

    def get(self, request_id: str) -> dict[str, Any]:
        answer = self.site.call("GET", f"/pathology/requests/{request_id}/")
        assert answer.status == 200, answer.body
        request = answer.json["request"]
        assert isinstance(request, dict)
        return request

    def status(self, request_id: str) -> str:
        return str(self.get(request_id)["status"])

    def decide(self, request_id: str, what: str, **body: Any) -> Answer:
        return self.site.call("POST", f"/pathology/requests/{request_id}/{what}", body=body)

    def completed(self, slide: Slide | None = None) -> Lease:
        self.submitted(slide)
        lease = self.claim()
        lease.put("heatmap.png", PNG)
        assert lease.complete(named("heatmap.png", PNG)).status == 200
        return lease
