# SPDX-License-Identifier: AGPL-3.0-or-later
"""A hospital's years in minutes: the queue's real code under a clock that jumps from event to event.

``python bench/bench_scale.py [--workers 100] [--requests 100000] [--plots docs/images]``: people submit,
workers claim, report, deliver and sometimes die; storage is the gateway in memory. What is real: every line
of the queue, and so what a call costs. What is assumed: how long a slide takes (``--slide-seconds``) and how
often a worker dies. Prints a table and one line of JSON; fails where a request is lost or done twice.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt

from orthanc_plugin.application import Application
from orthanc_plugin.host.memory_gateway import MemoryGateway
from orthanc_plugin.presentation.list_filter import parse_filter
from orthanc_plugin.queue.held_leases import Live
from orthanc_plugin.queue.values import COMPLETED, FAILED, OPEN, Model
from orthanc_plugin.routes.metrics import queue_metrics, render
from orthanc_plugin.service import listing
from orthanc_plugin.service.claim import Claim, claim
from orthanc_plugin.service.clockwork import finish_leftovers, tick
from orthanc_plugin.service.complete import Result, complete
from orthanc_plugin.service.report import Heartbeat, LeaseProof, heartbeat
from orthanc_plugin.service.startup import load_all, load_open
from orthanc_plugin.service.submit import Wish, submit
from orthanc_plugin.service.targets import Target
from tests.support.fake_clock import FakeClock
from tests.support.sites import RecordingAudit, settings_of

MODEL = Model("bench", "1", "0" * 64)
RESULT = {"predicted_class": "a", "probabilities": {"a": 1.0}, "timings_s": {"encode": 1.0}}
HEARTBEAT_S, POLL_S, TICK_S, LEFTOVERS_S = 15.0, 5.0, 5.0, 10.0
HELD = 10
"""Claims that are held open at once (`ClaimWaiters`); further idle workers ask again every few seconds."""
SPREAD = 0.6
"""Sigma of the log-normal distribution of a slide's seconds: biopsies beside resections."""


@dataclass
class Tally:
    """What came of a run: seconds of simulated time, and milliseconds of the real processor."""

    waits: list[float] = field(default_factory=list)
    depth: list[tuple[float, int]] = field(default_factory=list)
    cost: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    calls: int = 0
    deaths: int = 0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note what the block costs the processor."""
        begun = time.process_time()
        yield
        self.cost[name].append((time.process_time() - begun) * 1000)
        self.calls += 1


class Simulation:
    """People and workers around one queue."""

    def __init__(self, workers: int, slide_s: float, load: float, deaths: float, seed: int) -> None:
        self.clock, self.gateway, self.tally = FakeClock(), MemoryGateway(), Tally()
        settings = settings_of(
            {"LeaseSeconds": 60, "HeartbeatSeconds": 15, "ConfirmSeconds": 15, "RetrySeconds": 30}
        )
        self.core = Application(settings, self.gateway, self.clock, RecordingAudit(), print).core
        load_open(self.core)
        load_all(self.core)
        self._random = random.Random(seed)
        self._slide_s, self._deaths, self._gap_s = slide_s, deaths, slide_s / (workers * load)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = self._left = 0
        self._idle: deque[int] = deque()
        self._leftovers_at = 0.0
        for worker in range(workers):
            self._at(self._random.uniform(0, POLL_S), partial(self._ask, worker))

    def run(self, requests: int) -> Tally:
        """Let so many requests come, until all are completed, or failed when their last worker died."""
        self._left = requests
        self._at(0.0, self._person)
        self._at(TICK_S, self._tick)
        while self._left or self._is_any_open():
            at, _, action = heapq.heappop(self._events)
            self.clock.advance(max(0.0, at - self.clock.monotonic()))
            action()
        return self.tally

    def _is_any_open(self) -> bool:
        counts = self.core.index.counts()
        return any(counts[status] for status in OPEN)

    def _at(self, delay: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.clock.monotonic() + delay, self._count, action))

    def _person(self) -> None:
        self._left -= 1
        self.submit(self._left)
        if self._left:
            self._at(self._random.expovariate(1 / self._gap_s), self._person)
        if self._idle:
            worker = self._idle.popleft()
            self._at(0.0, lambda: self._ask(worker))

    def submit(self, number: int) -> None:
        """Ask for the analysis of a slide that has just been stored."""
        series = self.gateway.add_slide(f"1.2.{number}.1", f"1.2.{number}")
        with self.tally.timed("submit"):
            submit(self.core, Target(series=series), Wish(model=MODEL.name), "alice")

    def _tick(self) -> None:
        with self.tally.timed("tick"):
            tick(self.core)
        if self.clock.monotonic() >= self._leftovers_at:
            self._leftovers_at = self.clock.monotonic() + LEFTOVERS_S
            with self.tally.timed("leftovers"):
                finish_leftovers(self.core)
        self.tally.depth.append((self.clock.monotonic(), sum(1 for _ in self.core.index.pending())))
        self._at(TICK_S, self._tick)

    def _ask(self, worker: int) -> None:
        token = f"{self._random.getrandbits(256):064x}"
        with self.tally.timed("claim"):
            given = claim(self.core, Claim(f"w{worker}", "worker", token, (MODEL,), MODEL.name))
        if given is None:
            if len(self._idle) < HELD:
                self._idle.append(worker)
            else:
                self._at(self._random.uniform(0.5, 1.5) * POLL_S, lambda: self._ask(worker))
            return
        request = given.request
        if request.fence == 1:
            self.tally.waits.append(self.clock.now() - request.created)
        proof = LeaseProof(f"w{worker}", token, request.fence)
        seconds = self._random.lognormvariate(0, SPREAD) * self._slide_s / 2.718281828 ** (SPREAD**2 / 2)
        dies = self._random.random() < self._deaths
        self._work(worker, request.request_id, request.fingerprint, proof, seconds, dies=dies)

    def _work(
        self, worker: int, request_id: str, content: str, proof: LeaseProof, left_s: float, *, dies: bool
    ) -> None:
        with self.tally.timed("heartbeat"):
            beat = Heartbeat(Live(stage="encode", progress=0.5), prefetch=False, counters={})
            heartbeat(self.core, request_id, proof, beat)
        if left_s > HEARTBEAT_S:
            self._at(
                HEARTBEAT_S,
                lambda: self._work(worker, request_id, content, proof, left_s - HEARTBEAT_S, dies=dies),
            )
        elif dies:
            self.tally.deaths += 1
            self._at(120.0, lambda: self._ask(worker))
        else:
            self._at(left_s, lambda: self._deliver(worker, request_id, content, proof))

    def _deliver(self, worker: int, request_id: str, content: str, proof: LeaseProof) -> None:
        with self.tally.timed("complete"):
            done = complete(self.core, request_id, proof, "0" * 64, Result(content, (), RESULT))
        assert done.status == COMPLETED
        self._ask(worker)


def check(simulation: Simulation, requests: int) -> None:
    """See that every request was completed once, or failed because a worker died in each of its attempts."""
    found = simulation.core.index.snapshot()
    delivered = [request for request in found if request.status == COMPLETED]
    failed = [request for request in found if request.status == FAILED]
    assert len(found) == len(delivered) + len(failed) == requests, (len(found), len(delivered), len(failed))
    assert simulation.core.tallies.transitions()["completed"] == len(delivered)
    assert all(request.attempts == request.max_attempts for request in failed)


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 3)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }


def main_run(arguments: argparse.Namespace) -> tuple[dict[str, Any], Tally]:
    simulation = Simulation(
        arguments.workers, arguments.slide_seconds, arguments.load, arguments.deaths, arguments.seed
    )
    begun = time.monotonic()
    tally = simulation.run(arguments.requests)
    real_s = time.monotonic() - begun
    check(simulation, arguments.requests)
    with tally.timed("metrics"):
        text = render(queue_metrics(simulation.core))
    with tally.timed("list"):
        listing.list_requests(simulation.core, parse_filter({"status": "failed"}))
    simulated_s = simulation.clock.monotonic() - 1000.0
    figures = {
        "workers": arguments.workers,
        "requests": arguments.requests,
        "simulated_days": round(simulated_s / 86400, 2),
        "real_s": round(real_s, 1),
        "calls": tally.calls,
        "calls_per_simulated_s": round(tally.calls / simulated_s, 2),
        "worker_deaths": tally.deaths,
        "failed": simulation.core.index.counts()[FAILED],
        "wait_s": percentiles(tally.waits),
        "deepest_queue": max(depth for _, depth in tally.depth),
        "cost_ms": {name: percentiles(values) for name, values in sorted(tally.cost.items())},
        "cost_growth": {name: growth(values) for name, values in tally.cost.items() if len(values) > 1000},
        "busy_share": round(sum(map(sum, tally.cost.values())) / 1000 / simulated_s, 5),
        "metrics_bytes": len(text),
    }
    return figures, tally


def backlog(requests: int) -> dict[str, float]:
    """Return the milliseconds of a submission behind others that nobody claims, and their list's bytes."""
    simulation = Simulation(1, 1.0, 1.0, 0.0, 1)
    for number in range(requests):
        simulation.submit(number)
    values = simulation.tally.cost["submit"]
    listed = simulation.gateway.get_global_property(simulation.core.settings.global_property) or ""
    sizes = [requests // share for share in (100, 10, 1)]
    figures = {f"ms_at_{size}": round(statistics.median(values[size * 9 // 10 : size]), 3) for size in sizes}
    return {**figures, "list_bytes": len(listed)}


def growth(values: list[float]) -> float:
    """Return the median cost of the last tenth over that of the first: 1 where history costs nothing."""
    tenth = len(values) // 10
    return round(statistics.median(values[-tenth:]) / max(statistics.median(values[:tenth]), 1e-6), 2)


def sweep(arguments: argparse.Namespace) -> dict[int, list[tuple[float, float, float]]]:
    """Return for 1, 10 and 100 workers the median and 95th percentile of the wait at each load."""
    curves: dict[int, list[tuple[float, float, float]]] = {}
    for workers in (1, 10, 100):
        for load in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95):
            simulation = Simulation(workers, arguments.slide_seconds, load, 0.0, arguments.seed)
            waits = percentiles(simulation.run(arguments.sweep).waits)
            curves.setdefault(workers, []).append((load, waits["p50"], waits["p95"]))
    return curves


def draw(
    folder: Path, tally: Tally, curves: dict[int, list[tuple[float, float, float]]], slide_s: float
) -> None:
    """Draw the two pictures of docs/sizing.md."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.switch_backend("agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for workers, points in curves.items():
        loads = [100 * load for load, _, _ in points]
        left.plot(loads, [p95 / slide_s for _, _, p95 in points], marker="o", label=f"workers: {workers}")
    left.set(
        xlabel="share of the workers' capacity that is asked for, %",
        ylabel="wait (95th percentile) / time of a slide",
    )
    left.set_yscale("symlog", linthresh=0.1)
    left.legend()
    left.grid(alpha=0.3)
    step = max(1, len(tally.depth) // 2000)
    right.plot(
        [(at - tally.depth[0][0]) / 3600 for at, _ in tally.depth[::step]],
        [depth for _, depth in tally.depth[::step]],
        lw=0.7,
    )
    right.set(xlabel="simulated hours", ylabel="requests waiting")
    right.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(folder / "scale-waits.png", dpi=110, metadata={"Software": None})

    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    for name in ("submit", "claim", "heartbeat", "complete"):
        values = tally.cost[name]
        size = max(1, len(values) // 40)
        parts = [values[start : start + size] for start in range(0, len(values) - size + 1, size)]
        axis.plot(
            [100 * number / len(parts) for number in range(len(parts))],
            list(map(statistics.median, parts)),
            label=name,
        )
    axis.set(xlabel="share of the requests done, %", ylabel="processor, ms a call (median)")
    axis.margins(y=0.2)
    axis.set_ylim(bottom=0)
    axis.legend(loc="upper center", ncols=4)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(folder / "scale-cost.png", dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--slide-seconds", type=float, default=60.0, help="mean, assumed")
    parser.add_argument("--load", type=float, default=0.9, help="of the workers' capacity")
    parser.add_argument("--deaths", type=float, default=0.01, help="share of analyses whose worker dies")
    parser.add_argument(
        "--sweep", type=int, default=2000, help="requests of each point of the curves; 0: none"
    )
    parser.add_argument("--backlog", type=int, default=10_000, help="requests that wait for nobody")
    parser.add_argument("--plots", type=Path, help="folder for the pictures")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    figures, tally = main_run(arguments)
    figures["backlog"] = backlog(arguments.backlog)
    for name, value in figures.items():
        print(f"{name:<24} {value}", file=sys.stderr)
    print(json.dumps(figures), flush=True)
    if arguments.plots is not None:
        draw(arguments.plots, tally, sweep(arguments), arguments.slide_seconds)


if __name__ == "__main__":
    main()
