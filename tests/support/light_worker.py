# SPDX-License-Identifier: Apache-2.0
"""A worker process without a model: ``python -m tests.support.light_worker HISTORY``.

It speaks through the worker's own client, brings a picture and a DICOM result for every request, and appends
to the file HISTORY what it was granted and what was accepted, one JSON object a line.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.tiny_dicom import tiny_result
from worker.api.calls import Retry
from worker.api.client import PluginClient
from worker.api.contract import ArtifactRef, Claim, ModelOffer, new_token
from worker.backoff import Backoff
from worker.errors import ServerError
from worker.settings_reading import load_settings

OFFER = ModelOffer("light", "1", "0" * 64)
PNG = b"\x89PNG\r\n\x1a\n"
WAIT_S = 2.0
MOST_WORK_S = 0.6
AHEAD = 0.3
"""How often a slide is fetched ahead."""


class LightWorker:
    """Claims, works for a moment, delivers; for ever."""

    def __init__(self, history: Path) -> None:
        settings = load_settings(os.environ)
        # A call is given up late, so that cut connections are met by repeats of the same call.
        retry = Retry(attempts=8, backoff=Backoff(0.05, 0.5))
        self._client = PluginClient(settings, settings.require_worker(), retry=retry)
        self._history = history

    def run(self) -> None:
        """Work until the process ends."""
        ahead: Claim | None = None
        while True:
            claim = ahead or self._claim()
            ahead = self._look_ahead() if random.random() < AHEAD else None
            try:
                self._work(claim)
            except ServerError as error:
                self._note("dropped", claim, reason=type(error).__name__)

    def _look_ahead(self) -> Claim | None:
        """Take one more slide, which an idle worker may still have."""
        try:
            answer = self._client.claim(
                new_token(), [OFFER], OFFER.name, device="none", wait_s=0, prefetch=True
            )
            claim = answer.claim
            if claim is not None:
                self._note("granted", claim)
                self._client.heartbeat(
                    claim.request_id, claim.lease, stage="open", progress=0.0, detail="", prefetch=True
                )
        except ServerError:
            return None
        return claim

    def _claim(self) -> Claim:
        token = new_token()
        while True:
            try:
                answer = self._client.claim(token, [OFFER], OFFER.name, device="none", wait_s=WAIT_S)
            except ServerError:
                time.sleep(0.1)
                continue
            if answer.claim is not None:
                self._note("granted", answer.claim)
                return answer.claim

    def _work(self, claim: Claim) -> None:
        request_id, lease = claim.request_id, claim.lease
        orders = self._client.heartbeat(request_id, lease, stage="encode", progress=0.1, detail="")
        if orders.cancel:
            self._client.confirm_cancel(request_id, lease)
            return
        time.sleep(random.uniform(0, MOST_WORK_S))
        files = {
            "heatmap.png": PNG + lease.token.encode(),
            "sr.dcm": tiny_result(str(claim.request["study_instance_uid"])),
        }
        for name, content in files.items():
            self._client.put_artifact(request_id, lease, name, content)
        self._client.complete(request_id, self._completion(claim, files))
        self._note("accepted", claim)

    @staticmethod
    def _completion(claim: Claim, files: dict[str, bytes]) -> dict[str, Any]:
        return {
            "worker_id": os.environ["WORKER_ID"],
            "token": claim.lease.token,
            "fence": claim.lease.fence,
            "fingerprint": claim.fingerprint,
            "artifacts": [ArtifactRef.of(name, content).as_json() for name, content in files.items()],
            "result": {
                "predicted_class": "a",
                "probabilities": {"a": 1.0},
                "quality": {"status": "ok", "flags": []},
                "by": claim.lease.token,
            },
        }

    def _note(self, event: str, claim: Claim, **more: Any) -> None:
        known = {"event": event, "request_id": claim.request_id, "fence": claim.lease.fence}
        line = json.dumps({**known, "token": claim.lease.token, **more}) + "\n"
        with self._history.open("a") as file:  # one write, so that a kill leaves whole lines
            file.write(line)


if __name__ == "__main__":
    LightWorker(Path(sys.argv[1])).run()
