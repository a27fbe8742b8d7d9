# SPDX-License-Identifier: AGPL-3.0-or-later
"""Drives the queue through everything that can happen to it, and checks what it answered against what holds.

People and workers act, time goes by, answers get lost, Orthanc refuses reads and writes, and the process dies
before or after any write. Nothing here is random: who drives it (hypothesis, or a seeded loop) chooses.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from orthanc_plugin.gateway import SeriesInfo
from orthanc_plugin.leases import found_at_start
from orthanc_plugin.memory_gateway import MemoryGateway
from orthanc_plugin.store import named_numbers
from orthanc_plugin.values import OPEN, AnalysisRequest, Artifact
from tests.support.queue_client import PNG, RESULT, named
from tests.support.sites import LABEL, PERSON, WORKER, Answer, MemorySite, Slide
from tests.support.tiny_dicom import tiny_result

MODEL = "model"
SLIDES = 3
WORKERS = 3
STUDY_UID = "1.2.3"
READS_AND_WRITES = (
    "put_metadata",
    "get_metadata",
    "put_attachment",
    "get_attachment",
    "delete_attachment",
    "delete_metadata",
    "list_attachments",
    "list_metadata",
    "instances",
    "series",
    "set_global_property",
    "store_instance",
    "delete_series",
)
_MOST_LOOKS = 500
"""At a slide, over one call; a call that does not end is broken as well."""
DECISIONS = ("cancel", "retry", "withdraw")
REPORTS = ("processing", "pending", "cancelled")


class BrokenPromiseError(AssertionError):
    """What was answered does not hold.

    `kind` is ``lost`` (an accepted request is gone), ``doubled`` (one request, two grants or results),
    ``superseded`` (a result under a lease that had been replaced), ``orphans`` (files or DICOM series of no
    completed request) or ``other``.
    """

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def require(holds: bool, kind: str, sentence: str) -> None:
    """Raise `BrokenPromiseError` unless `holds`."""
    if not holds:
        raise BrokenPromiseError(kind, sentence)


@cache
def _result_file(_number: int) -> bytes:
    """Return the DICOM result number so-and-so; kept, since every episode begins with the same few."""
    return tiny_result(STUDY_UID)


class Crash(BaseException):
    """The process dies here."""


class MortalGateway(MemoryGateway):
    """A gateway on which the process dies in the middle of a chosen write."""

    def __init__(self) -> None:
        super().__init__()
        self._writes_left: int | None = None
        self._dies_after = False
        self.looks = 0

    def series(self, series_id: str) -> SeriesInfo | None:
        self.looks += 1
        require(self.looks < _MOST_LOOKS, "other", "a call looks at slides without end")
        return super().series(series_id)

    def leave_label(self, series_id: str) -> None:
        """Delete the images of a slide but for a label."""
        label = self.add_instance(series_id, "9.9", image_type=LABEL)
        for instance_id in self._held(series_id).instances.keys() - {label}:
            self.delete_instance(instance_id)

    def die_in(self, writes: int, *, after: bool) -> None:
        """Let the process die before, or right after, the given write from now (1 is the next)."""
        self._writes_left, self._dies_after = writes, after

    def live_on(self) -> None:
        self._writes_left = None

    def heal(self) -> None:
        """Forget the failures that were asked for and have not come to pass."""
        self._failures.clear()

    def _write(self, operation: str, *arguments: Any) -> Any:
        dies = False
        if self._writes_left is not None:
            self._writes_left -= 1
            dies = self._writes_left == 0
        if dies and not self._dies_after:
            raise Crash
        result = getattr(super(), operation)(*arguments)
        if dies:
            raise Crash
        return result

    def put_metadata(self, series_id: str, number: int, value: bytes) -> None:
        self._write("put_metadata", series_id, number, value)

    def put_attachment(self, series_id: str, number: int, content: bytes) -> None:
        self._write("put_attachment", series_id, number, content)

    def delete_attachment(self, series_id: str, number: int) -> None:
        self._write("delete_attachment", series_id, number)

    def delete_metadata(self, series_id: str, number: int) -> None:
        self._write("delete_metadata", series_id, number)

    def delete_series(self, series_id: str) -> None:
        self._write("delete_series", series_id)

    def set_global_property(self, number: int, value: str) -> None:
        self._write("set_global_property", number, value)

    def store_instance(self, content: bytes) -> str:
        return str(self._write("store_instance", content))


class MortalSite(MemorySite):
    """The site in memory, on a gateway on which the process may die."""

    def __init__(self) -> None:
        super().__init__()
        self.gateway = MortalGateway()
        self.application = self._start()


@dataclass
class Held:
    """What a worker remembers of a claim."""

    worker_id: str
    token: str
    request_id: str
    fence: int
    fingerprint: str
    sent: dict[str, Any] | None = None


@dataclass
class Promises:
    """What was answered, and therefore has to hold."""

    accepted: set[str] = field(default_factory=set)
    grants: dict[tuple[str, int], str] = field(default_factory=dict)
    results: dict[str, tuple[int, str]] = field(default_factory=dict)
    withdrawn: set[str] = field(default_factory=set)


class QueueDriver:
    """The actions, and the checker."""

    def __init__(self) -> None:
        self.site = MortalSite()
        self.slides: list[Slide] = [self.site.new_slide() for _ in range(SLIDES)]
        self.held: list[Held] = []
        self.promises = Promises()
        self.crashes = 0
        self._tokens = 0
        self._dicoms: dict[str, bytes] = {}

    @property
    def gateway(self) -> MortalGateway:
        gateway = self.site.gateway
        assert isinstance(gateway, MortalGateway)
        return gateway

    def _call(self, method: str, path: str, **options: Any) -> Answer | None:
        """Send a request; None where the process died over it."""
        self.gateway.looks = 0
        try:
            return self.site.call(method, path, **options)
        except Crash:
            self._reborn()
            return None

    def _reborn(self) -> None:
        self.crashes += 1
        self.gateway.live_on()
        self.site.restart(kill=True)

    # Actions

    def submit(self, slide: int, parameter: int, *, force: bool) -> None:
        body = {
            "series": self.slides[slide].series,
            "model": MODEL,
            "parameters": {"n": parameter},
            "force": force,
        }
        answer = self._call("POST", "/pathology/analyze", user=PERSON, body=body)
        if answer is not None and answer.status in {200, 201}:
            self.promises.accepted.add(answer.json["request_id"])

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
        key = (request_id, fence)
        known = self.promises.grants.setdefault(key, token)
        require(known == token, "doubled", "two workers hold one fence")
        is_done = request_id in self.promises.results
        require(not is_done, "doubled", "a request with a result was given out again")
        self.held.append(Held(worker_id, token, request_id, fence, claimed["request"]["fingerprint"]))
        self.held = self.held[-12:]

    def _pick(self, which: int) -> Held | None:
        return self.held[-1 - which % len(self.held)] if self.held else None

    def _proof(self, held: Held) -> dict[str, Any]:
        return {"worker_id": held.worker_id, "token": held.token, "fence": held.fence}

    def report(self, which: int, status: str, *, prefetch: bool = False) -> None:
        held = self._pick(which)
        if held is not None:
            body = {**self._proof(held), "status": status, "prefetch": prefetch}
            self._call("POST", f"/pathology/update-status/{held.request_id}/", user=WORKER, body=body)

    def put(self, which: int) -> None:
        """Send a picture and a DICOM result."""
        held = self._pick(which)
        if held is not None:
            self._put(held, "heatmap.png", "image/png", PNG + held.token.encode())
            self._put(held, "sr.dcm", "application/dicom", self._dicom(held))

    def _dicom(self, held: Held) -> bytes:
        if held.token not in self._dicoms:
            self._dicoms[held.token] = _result_file(len(self._dicoms))
        return self._dicoms[held.token]

    def _put(self, held: Held, name: str, content_type: str, content: bytes) -> None:
        self._call(
            "PUT",
            f"/pathology/requests/{held.request_id}/artifacts/{name}",
            user=WORKER,
            data=content,
            headers={
                "Content-Type": content_type,
                "X-Pathology-Token": held.token,
                "X-Pathology-Fence": str(held.fence),
            },
        )

    def complete(self, which: int, *, picture: bool, again: bool) -> None:
        held = self._pick(which)
        if held is None:
            return
        body = held.sent if again and held.sent is not None else self._completion(held, picture=picture)
        held.sent = body
        answer = self._call("POST", f"/pathology/complete-request/{held.request_id}/", user=WORKER, body=body)
        if answer is not None and answer.status == 200 and "result" in body:
            self._note_result(held, body)

    def _completion(self, held: Held, *, picture: bool) -> dict[str, Any]:
        artifacts = []
        if picture:
            artifacts = [
                named("heatmap.png", PNG + held.token.encode()),
                named("sr.dcm", self._dicom(held)),
            ]
        return {
            **self._proof(held),
            "fingerprint": held.fingerprint,
            "artifacts": artifacts,
            "result": {**RESULT, "by": held.token},
        }

    def _note_result(self, held: Held, body: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        known = self.promises.results.setdefault(held.request_id, (held.fence, digest))
        require(known == (held.fence, digest), "doubled", "two results were accepted for one request")
        latest = max(fence for request_id, fence in self.promises.grants if request_id == held.request_id)
        require(held.fence == latest, "superseded", "a result was accepted under a replaced lease")

    def fail(self, which: int, *, retryable: bool) -> None:
        held = self._pick(which)
        if held is not None:
            error = {"code": "broken", "message": "It broke.", "retryable": retryable}
            held.sent = {**self._proof(held), "error": error}
            self._call("POST", f"/pathology/complete-request/{held.request_id}/", user=WORKER, body=held.sent)

    def decide(self, which: int, what: str) -> None:
        known = sorted(self.promises.accepted)
        if known:
            request_id = known[which % len(known)]
            body = {"reason": "driven"} if what == "withdraw" else {}
            answer = self._call("POST", f"/pathology/requests/{request_id}/{what}", user=PERSON, body=body)
            # A lost answer may mean either, so that both have to be allowed for.
            if what == "withdraw" and (answer is None or answer.status in {200, 503}):
                self.promises.withdrawn.add(request_id)

    def pass_time(self, seconds: float) -> None:
        try:
            self.site.pass_time(seconds)
        except Crash:
            self._reborn()

    def shift_clock(self, seconds: float) -> None:
        """Set the wall clock; time itself goes on as before."""
        self.site.clock.shift(seconds)

    def overwrite(self, slide: int) -> None:
        """Add a file to a slide: its content is another one afterwards."""
        self._tokens += 1
        self.gateway.add_instance(self.slides[slide].series, f"9.9.{self._tokens}")

    def leave_label(self, slide: int) -> None:
        """Let a slide be one that cannot be analysed, until `overwrite` adds an image again."""
        self.gateway.leave_label(self.slides[slide].series)

    def refuse(self, operation: str, *, after: bool) -> None:
        """Let Orthanc fail the next call of an operation."""
        self.gateway.fail_next(operation, after=after)

    def die(self, writes: int, *, after: bool) -> None:
        self.gateway.die_in(writes, after=after)

    def restart(self) -> None:
        self.gateway.live_on()
        self.site.restart()

    # The checker

    def check(self) -> None:
        """Compare what memory says with what was promised."""
        index = self.site.application.core.index
        requests = {request.request_id: request for request in index.snapshot()}
        if self.site.application.core.ready.unread:
            return  # it says so, and answers 503
        require(self.promises.accepted <= requests.keys(), "lost", "an accepted request is gone")
        for request_id, (fence, _) in self.promises.results.items():
            request = requests[request_id]
            is_kept = request.status in {"publishing", "completed", "withdrawn"}
            require(is_kept, "lost", f"a request with a result is {request.status}")
            was_asked = request.status != "withdrawn" or request_id in self.promises.withdrawn
            require(was_asked, "lost", "a result was withdrawn that nobody withdrew")
            require(request.fence == fence, "superseded", "a result stands under another fence")
        for request in requests.values():
            require(0 <= request.attempts <= request.fence, "other", "attempts and fence do not fit")
            is_leased = request.status != "processing" or index.lease(request.request_id) is not None
            require(is_leased, "other", "a request is in work without a lease")
        ahead = [request.grants[-1].worker_id for request in index.prefetched()]
        require(len(ahead) == len(set(ahead)), "other", "a worker holds two slides ahead")

    def check_settled(self) -> None:
        """Stop all disturbances, start once more, let every lease run out, and check what is left."""
        self.gateway.live_on()
        self.gateway.heal()
        self.pass_time(0)
        for slide in self.slides:
            # What a failed write has left in doubt is read again before it is used.
            self.site.application.core.store.load(slide.series)
        memory = self._states()
        self.site.restart(kill=True)
        require(self._states() == memory, "lost", "memory and metadata differ")
        self.site.pass_time(30)
        self.site.pass_time(30)
        self.check()
        self._check_storage()

    def _states(self) -> dict[str, tuple[str, int, int]]:
        """Return what a restart must find; it takes the attempt under a lease for one, heard of or not."""
        requests = map(found_at_start, self.site.application.core.index.snapshot())
        return {item.request_id: (item.status, item.fence, item.attempts) for item in requests}

    def _check_storage(self) -> None:
        requests = self.site.application.core.index.snapshot()
        unfinished = [item for item in requests if item.status == "publishing"]
        require(not unfinished, "other", "a request is still being published")
        published = {
            output.series for item in requests if item.status == "completed" for output in item.outputs
        }
        slides = {slide.series for slide in self.slides}
        extra = self.site.series_ids() - slides - published
        require(not extra, "orphans", "there are DICOM series of no completed request")
        missing = published - self.site.series_ids()
        require(not missing, "lost", "a DICOM series of a completed request is gone")
        for slide in self.slides:
            named = named_numbers(tuple(item for item in requests if item.series == slide.series))
            stored = set(self.gateway.list_attachments(slide.series))
            require(stored <= named, "orphans", "there are left-over attachments")
            values = set(self.gateway.list_metadata(slide.series)) - {self.site.settings.metadata_number}
            require(values <= named, "orphans", "there are left-over results")
        for item in requests:
            is_cancelled = not item.cancel_requested or item.status in {*OPEN, "cancelled", "failed"}
            require(is_cancelled, "other", "a cancelled request was finished")
            if item.status == "completed":
                self._check_files(item)

    def _check_files(self, item: AnalysisRequest) -> None:
        for artifact in item.artifacts:
            self._require_whole(artifact, self.gateway.get_attachment(item.series, artifact.number))
        require(item.record is not None, "lost", "a completed request has no result")
        assert item.record is not None
        self._require_whole(item.record, self.gateway.get_metadata(item.series, item.record.number))

    @staticmethod
    def _require_whole(artifact: Artifact, content: bytes | None) -> None:
        is_whole = content is not None and hashlib.sha256(content).hexdigest() == artifact.sha256
        require(is_whole, "lost", f"{artifact.name} of a completed request is gone or another")


def step(driver: QueueDriver, chance: random.Random) -> None:
    """Let one thing happen, and compare what memory says with what was promised."""
    weights, actions = zip(*_actions(driver, chance), strict=True)
    chance.choices(actions, weights)[0]()
    driver.check()


def _actions(driver: QueueDriver, chance: random.Random) -> tuple[tuple[int, Callable[[], None]], ...]:
    which = min(chance.randrange(12), chance.randrange(12))  # the latest leases are the lively ones
    coin = chance.random() < 0.5
    ahead = chance.random() < 0.4
    return (
        (8, lambda: driver.submit(which % SLIDES, chance.randrange(3), force=chance.random() < 0.2)),
        (14, lambda: driver.claim(which % WORKERS, repeat=chance.random() < 0.2, prefetch=ahead)),
        (10, lambda: driver.report(which, "processing", prefetch=ahead)),
        (3, lambda: driver.report(which, chance.choice(REPORTS))),
        (10, lambda: driver.put(which)),
        (12, lambda: driver.complete(which, picture=coin, again=chance.random() < 0.3)),
        (4, lambda: driver.fail(which, retryable=chance.random() < 0.7)),
        (4, lambda: driver.decide(chance.randrange(1000), chance.choice(DECISIONS))),
        (10, lambda: driver.pass_time(chance.choice((0.1, 0.3, 1.1, 2.5)))),
        (1, lambda: driver.shift_clock(chance.choice((-3600.0, -5.0, 5.0, 3600.0)))),
        (1, lambda: driver.overwrite(which % SLIDES)),
        (2, lambda: driver.leave_label(which % SLIDES)),
        (3, lambda: driver.refuse(chance.choice(READS_AND_WRITES), after=coin)),
        (3, lambda: driver.die(chance.randrange(1, 5), after=coin)),
        (1, driver.restart),
    )
