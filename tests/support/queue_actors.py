# SPDX-License-Identifier: AGPL-3.0-or-later
"""People and workers of the driven queue: what they ask, what they are answered, and what that promises."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from orthanc_plugin.queue.values import AnalysisRequest
from tests.support.queue_checks import requests_told_otherwise
from tests.support.queue_orthanc import Crash, EndlessError, StruckSite
from tests.support.queue_promises import Promises, require
from tests.support.queue_worker import Held
from tests.support.sites import PERSON, WORKER, Answer, Slide

MODEL = "model"
SLIDES = 3
WORKERS = 3
DECISIONS = {
    "cancel": frozenset({"pending", "processing", "cancelled"}),
    "retry": frozenset({"pending", "failed", "cancelled"}),
    "withdraw": frozenset({"completed", "withdrawn"}),
    "review": frozenset({"completed"}),
}
"""What a person may decide, and of requests in which state."""
_BODIES = {"withdraw": {"reason": "driven"}, "review": {"verdict": "agree"}}
REPORTS = ("processing", "pending", "cancelled")


class Actors:
    """People and workers, and what they were promised; the process may die over any call."""

    def __init__(self) -> None:
        self.site = StruckSite()
        self.gateway = self.site.gateway
        self.slides: list[Slide] = [self.site.new_slide() for _ in range(SLIDES)]
        self.held: list[Held] = []
        self.promises = Promises()
        self.counts: Counter[str] = Counter()
        self._tokens = 0
        self._depth = 0

    def _survive(self, action: Callable[[], Answer | None]) -> Answer | None:
        """Return what an action answers; None where the process died over it, and was started again."""
        self.gateway.looks = 0
        self._depth += 1
        try:
            return action()
        except Crash:
            if self._depth > 1:  # what was in the middle of another call dies with that one
                raise
            self.counts["crashes"] += 1
            self._start_again(kill=True)
            return None
        except EndlessError:
            require(False, "other", "a call looks at slides without end")
            return None
        finally:
            self._depth -= 1

    def _call(self, method: str, path: str, **options: Any) -> Answer | None:
        return self._survive(lambda: self.site.call(method, path, **options))

    def _start_again(self, *, kill: bool) -> None:
        self.gateway.strike = None
        self.gateway.unheard.clear()
        self.promises.process_died(self.site)
        told_otherwise = requests_told_otherwise(self.site)
        self.site.restart(kill=kill)
        self.promises.cut_short |= requests_told_otherwise(self.site, unread=True) - told_otherwise

    def submit(self, slide: int, parameter: int, *, force: bool) -> None:
        series = self.slides[slide].series
        body = {"series": series, "model": MODEL, "parameters": {"n": parameter}, "force": force}
        is_copied = self.gateway.has_one_file(series)
        answer = self._call("POST", "/pathology/analyze", user=PERSON, body=body)
        if answer is not None and answer.status in {200, 201}:
            self.promises.accepted.setdefault(answer.json["request_id"], series)
            if answer.status == 201 and is_copied:
                self.promises.copied.add(answer.json["request_id"])

    def claim(self, worker: int, *, repeat: bool, prefetch: bool = False) -> None:
        worker_id = f"w{worker}"
        mine = [held for held in self.held if held.worker_id == worker_id]
        if repeat and mine:
            token = mine[-1].token
        else:
            self._tokens += 1
            token = f"{self._tokens:032x}"
        body = {
            "worker_id": worker_id,
            "token": token,
            "api": 1,
            "models": [{"name": MODEL, "version": "1"}],
            "prefetch": prefetch,
        }
        answer = self._call("POST", "/pathology/claim", user=WORKER, body=body)
        if answer is None:  # the answer is lost; the worker will repeat its claim with this token
            self.held.append(Held(worker_id, token, "0" * 32, 1, "0" * 64))
        elif answer.status == 200:
            self._note_grant(worker_id, token, answer.json)

    def _note_grant(self, worker_id: str, token: str, claimed: dict[str, Any]) -> None:
        request_id, fence = claimed["request"]["request_id"], claimed["lease"]["fence"]
        self.promises.note_grant(request_id, fence, token)
        self.held.append(Held(worker_id, token, request_id, fence, claimed["request"]["fingerprint"]))
        self.held = self.held[-12:]

    def _pick(self, which: int) -> Held | None:
        return self.held[-1 - which % len(self.held)] if self.held else None

    def report(self, which: int, status: str, *, prefetch: bool = False) -> None:
        held = self._pick(which)
        if held is not None:
            body = {**held.proof, "status": status, "prefetch": prefetch}
            self._call("POST", f"/pathology/update-status/{held.request_id}/", user=WORKER, body=body)

    def put(self, which: int, *, drawn_anew: bool) -> None:
        """Send a picture and a DICOM result."""
        held = self._pick(which)
        if held is not None:
            held.picture += drawn_anew
            for name, content in held.files().items():
                self._put(held, name, content)

    def _put(self, held: Held, name: str, content: bytes) -> None:
        kind = "image/png" if name.endswith("png") else "application/dicom"
        proof = {"X-Pathology-Token": held.token, "X-Pathology-Fence": str(held.fence)}
        self._call(
            "PUT",
            f"/pathology/requests/{held.request_id}/artifacts/{name}",
            user=WORKER,
            data=content,
            headers={"Content-Type": kind, **proof},
        )

    def complete(self, which: int, *, files: bool, again: bool) -> None:
        held = self._pick(which)
        if held is None:
            return
        if held.sent is None or not again:
            held.sent = held.completion(files=files)
        body = held.sent
        answer = self._call("POST", f"/pathology/complete-request/{held.request_id}/", user=WORKER, body=body)
        if answer is not None and answer.status == 200 and "result" in body:
            self.counts["results"] += held.request_id not in self.promises.results
            self.promises.note_result(held.request_id, held.fence, body)

    def work(self, worker: int) -> None:
        """Do what a worker does that nothing happens to: claim, analyse, deliver all."""
        self.claim(worker, repeat=False)
        self.report(0, "processing")
        self.put(0, drawn_anew=False)
        self.complete(0, files=True, again=False)

    def fail(self, which: int, *, retryable: bool) -> None:
        held = self._pick(which)
        if held is not None:
            error = {"code": "broken", "message": "It broke.", "retryable": retryable}
            held.sent = {**held.proof, "error": error}
            self._call("POST", f"/pathology/complete-request/{held.request_id}/", user=WORKER, body=held.sent)

    def decide(self, which: int, what: str) -> None:
        known = sorted(self.promises.accepted)
        if not known:
            return
        request_id = known[which % len(known)]
        if what == "withdraw":  # whatever is answered: an answer may be lost
            self.promises.asked_back.add(request_id)
        if what == "retry":  # its copy may have been given up
            self.promises.copied.discard(request_id)
        path = f"/pathology/requests/{request_id}/{what}"
        answer = self._call("POST", path, user=PERSON, body=_BODIES.get(what, {}))
        if answer is not None and answer.status == 409:
            request = self.site.application.core.index.get(request_id)
            is_right = request is None or request.status not in DECISIONS[what]
            is_right = is_right or (what == "retry" and self._another_stands(request, answer.json["error"]))
            require(is_right, "other", f"{what} was refused: {answer.json['error']}")

    def _another_stands(self, request: AnalysisRequest | None, sentence: str) -> bool:
        """Tell whether a refusal names another request that is open or done, for the same analysis."""
        named = re.search(r"Request (\w{32}) stands", sentence)
        other = named and self.site.application.core.index.get(named[1])
        return (
            request is not None
            and isinstance(other, AnalysisRequest)
            and other.request_id != request.request_id
            and (other.series, other.parameters) == (request.series, request.parameters)
            and other.status in {"pending", "processing", "publishing", "completed"}
        )
