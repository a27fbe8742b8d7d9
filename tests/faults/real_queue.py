# SPDX-License-Identifier: AGPL-3.0-or-later
"""A real Orthanc and real worker processes through faults, and the checker over what they recorded.

Processes are killed and stopped, the server is killed and restarted, its clock is set, the network between
them loses, delays and repeats. Afterwards everything is left in peace until no request is open, and every
promise is compared with what Orthanc holds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests
from pydicom.uid import generate_uid

from tests.faults.drive_queue import Tally
from tests.support.faulty_proxy import FaultyProxy, Mood
from tests.support.light_worker import OFFER
from tests.support.orthanc_server import ROOT, OrthancServer
from tests.support.shifted_clock import ShiftedClock
from tests.support.tiny_dicom import tiny_slide

SECTION = {
    "LeaseSeconds": 2,
    "HeartbeatSeconds": 0.5,
    "ConfirmSeconds": 1,
    "RetrySeconds": 0.2,
    "MaxAttempts": 20,
}
SLIDES = 10
WORKERS = 3
SHIFTS_S = (-3600, -5, 0, 0, 5, 3600)
STOPPED_S = 3.0
"""A stopped worker sleeps longer than its lease lasts."""
SETTLE_S = 90.0
MOODS = (
    Mood(),
    Mood(lose_request=0.2),
    Mood(lose_answer=0.3),
    Mood(repeat=0.5),
    Mood(delay=0.5, delay_s=1.5),
    Mood(lose_request=0.1, lose_answer=0.2, repeat=0.2, delay=0.2),
)


class Worker:
    """A light worker in a process of its own."""

    def __init__(self, worker_id: str, url: str, user: tuple[str, str], history: Path) -> None:
        self._history = history
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ORTHANC_URL": url,
            "ORTHANC_USER": user[0],
            "ORTHANC_PASSWORD": user[1],
            "WORKER_ID": worker_id,
        }
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.light_worker", str(self._history)],
            env=self._environment,
            cwd=self._history.parent,
        )

    def kill(self) -> None:
        """End it in the middle of whatever it does, and start another in its place."""
        self.end()
        self._process = self._start()

    def end(self) -> None:
        """End it for good."""
        self._process.kill()
        self._process.wait()

    def freeze(self, seconds: float) -> None:
        """Let it stand still for a while."""
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)


class Person(threading.Thread):
    """Submits one thing after the other through the proxy; knows what was accepted."""

    def __init__(self, url: str, auth: tuple[str, str], slides: list[str]) -> None:
        super().__init__(daemon=True)
        self.accepted: set[str] = set()
        self._url = url
        self._auth = auth
        self._slides = slides
        self._stopped = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._stopped.wait(random.uniform(0.02, 0.25)):
            series = self._slides[number % len(self._slides)]
            body = {"series": series, "model": OFFER.name, "parameters": {"n": number}}
            try:
                answer = requests.post(
                    f"{self._url}/pathology/analyze", json=body, auth=self._auth, timeout=20
                )
            except requests.RequestException:
                continue  # the same again: it may have been accepted
            if answer.status_code in {200, 201}:
                self.accepted.add(answer.json()["request_id"])
            if answer.status_code != 503:
                number += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join(30)


def run(seconds: float, seed: int) -> Tally:
    """Let faults happen for a while, and count what they broke."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        clock = ShiftedClock(Path(stack.enter_context(TemporaryDirectory())))
        server = stack.enter_context(OrthancServer(overrides={"Pathology": SECTION}, script=clock.script))
        slides = [_store(server) for _ in range(SLIDES)]
        proxy = stack.enter_context(FaultyProxy(server.url))
        history = server.folder / "history.jsonl"
        history.touch()
        workers = []
        for number in range(WORKERS):
            workers.append(Worker(f"light-{number}", proxy.url, server.worker, history))
            stack.callback(workers[-1].end)
        person = Person(proxy.url, server.person, slides)
        person.start()
        tally = Tally()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            _disturb(chance, server, proxy, workers, tally)
            _shift(chance, clock, tally)
        proxy.mood = Mood()
        person.stop()
        requests_left = _settled(server)
        for worker in workers:
            worker.end()
        server.restart()  # what no request names is deleted at the start
        _wait_complete(server)
        events = [json.loads(line) for line in history.read_text().splitlines()]
        check(tally, server, slides, person.accepted, events, requests_left)
        tally.faults += proxy.faults
        return tally


def _store(server: OrthancServer) -> str:
    answer = server.post("/instances", data=tiny_slide(generate_uid(), generate_uid()))
    answer.raise_for_status()
    return str(answer.json()["ParentSeries"])


def _disturb(
    chance: random.Random, server: OrthancServer, proxy: FaultyProxy, workers: list[Worker], tally: Tally
) -> None:
    proxy.mood = chance.choice(MOODS)
    time.sleep(chance.uniform(0.1, 2.5))
    worker = chance.choice(workers)
    fault = chance.choices(
        ("kill worker", "freeze worker", "kill orthanc", "restart orthanc", "none"), (5, 3, 2, 1, 2)
    )[0]
    tally.faults[fault] += 1
    if fault == "kill worker":
        worker.kill()
    elif fault == "freeze worker":
        worker.freeze(STOPPED_S)
    elif fault == "kill orthanc":
        server.kill()
    elif fault == "restart orthanc":
        server.restart()
    tally.crashes += fault.startswith("kill")


def _shift(chance: random.Random, clock: ShiftedClock, tally: Tally) -> None:
    if chance.random() < 0.2:
        clock.shift(chance.choice(SHIFTS_S))
        tally.faults["shift clock"] += 1


def _wait_complete(server: OrthancServer) -> None:
    deadline = time.monotonic() + 30
    while not server.get("/pathology/health").json()["complete"]:
        assert time.monotonic() < deadline, server.log()[-3000:]
        time.sleep(0.05)
    time.sleep(1.0)  # left-over attachments are deleted after that


def _all_requests(server: OrthancServer) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    query = {"full": "1", "limit": "1000"}
    while True:
        page = server.get("/pathology/requests/", params=query).json()
        found |= {item["request_id"]: item for item in page["requests"]}
        if page["next"] is None:
            return found
        query["cursor"] = page["next"]


def _settled(server: OrthancServer) -> int:
    """Wait until nothing is open, for as long as it gets less; return how many requests are after all."""
    least, deadline = sys.maxsize, 0.0
    while True:
        counts = server.get("/pathology/health").json()["requests"]
        still_open = sum(counts[name] for name in ("pending", "processing", "publishing"))
        if still_open < least:
            least, deadline = still_open, time.monotonic() + SETTLE_S
        if not still_open or time.monotonic() > deadline:
            return int(still_open)
        time.sleep(0.2)


def check(
    tally: Tally,
    server: OrthancServer,
    slides: list[str],
    accepted: set[str],
    events: list[dict[str, Any]],
    still_open: int,
) -> None:
    """Compare what was answered with what Orthanc holds."""
    known = _all_requests(server)
    tally.steps = len(accepted) + len(events)
    for request_id in accepted - known.keys():
        tally.broke("lost", f"request {request_id} was accepted and is gone")
    if still_open:
        # They are there, so not lost; but somebody should have done them.
        tally.broke("other", f"{still_open} requests are open, and none has ended for {SETTLE_S:.0f} s")
    check_grants(tally, events)
    check_results(tally, [event for event in events if event["event"] == "accepted"], known)
    _check_storage(tally, server, slides, known)


def check_grants(tally: Tally, events: list[dict[str, Any]]) -> None:
    """Look for a lease that two workers were given."""
    holders: dict[tuple[str, int], str] = {}
    for event in events:
        key = (event["request_id"], event["fence"])
        if holders.setdefault(key, event["token"]) != event["token"]:
            tally.broke("doubled", f"two workers were given fence {key[1]} of {key[0]}")


def check_results(tally: Tally, deliveries: list[dict[str, Any]], known: dict[str, dict[str, Any]]) -> None:
    """Look for results that were accepted and are gone, doubled or another lease's."""
    fences: dict[str, set[int]] = {}
    for event in deliveries:
        fences.setdefault(event["request_id"], set()).add(event["fence"])
    for request_id, taken in fences.items():
        tally.results += 1
        request = known.get(request_id)
        if len(taken) > 1:
            tally.broke("doubled", f"results of the leases {sorted(taken)} of {request_id} were accepted")
        elif request is None or request["status"] != "completed" or request["result"] is None:
            tally.broke("lost", f"the result of {request_id} was accepted and is gone")
        elif request["fence"] not in taken:
            tally.broke("superseded", f"{request_id} was completed under fence {request['fence']}")
    delivered = {(event["request_id"], event["token"]) for event in deliveries}
    for request_id, request in known.items():
        is_known = request["status"] == "completed" and request_id in fences
        by = (request["result"] or {}).get("by")
        if is_known and by is not None and (request_id, by) not in delivered:
            tally.broke("superseded", f"{request_id} holds the result of another lease")


def _check_storage(
    tally: Tally, server: OrthancServer, slides: list[str], known: dict[str, dict[str, Any]]
) -> None:
    completed = [request for request in known.values() if request["status"] == "completed"]
    published = Counter(output["series"] for request in completed for output in request["dicom"])
    stored = set(server.get("/series").json()) - set(slides)
    for series in stored - published.keys():
        tally.broke("orphans", f"series {series} belongs to no completed request")
    for series in published.keys() - stored:
        tally.broke("lost", f"series {series} of a completed request is gone")
    for slide in slides:
        own = [request for request in completed if request["series"] == slide]
        files = sum(len(request["artifacts"]) for request in own)
        for kind, wanted in (("attachments", files), ("metadata", len(own))):
            numbers = [int(name) for name in server.get(f"/series/{slide}/{kind}").json() if name.isdigit()]
            found = sum(number >= 5100 for number in numbers)
            if found != wanted:
                what = "orphans" if found > wanted else "lost"
                tally.broke(what, f"slide {slide} has {found} {kind} of results, they name {wanted}")
