# SPDX-License-Identifier: AGPL-3.0-or-later
"""The long seeded run of the queue on the gateway in memory: as many steps as are asked for.

The steps, the model and the checker are those of tests/unit/orthanc_plugin/test_queue_stateful.py. An episode
is named by its seed and runs the same way every time, so that a broken promise can be looked at.
"""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from unittest.mock import patch

from tests.support.queue_driver import QueueDriver, small_archive
from tests.support.queue_promises import BrokenPromiseError
from tests.support.queue_steps import step

EPISODE_STEPS = 250
"""Long enough for every transition, short enough that a series holds few requests and a step stays cheap."""
_EPISODES_PER_TASK = 20


@dataclass
class Tally:
    """What a run came to; `broken` counts by the kind of `BrokenPromiseError`."""

    steps: int = 0
    results: int = 0
    crashes: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def broke(self, kind: str, sentence: str) -> None:
        """Count a broken promise."""
        self.broken[kind] += 1
        self.findings.append(f"{kind}: {sentence}")

    def add(self, other: Tally) -> None:
        """Take over what another part of the run came to."""
        self.steps += other.steps
        self.results += other.results
        self.crashes += other.crashes
        self.broken += other.broken
        self.faults += other.faults
        self.findings += other.findings


def drive_episode(seed: int, steps: int = EPISODE_STEPS) -> Tally:
    """Drive one fresh queue."""
    chance = random.Random(seed)
    tally = Tally()
    ids = random.Random(seed)
    try:
        # The plugin's own random ids decide between requests of the same moment.
        with small_archive(), patch("uuid.uuid4", lambda: uuid.UUID(int=ids.getrandbits(128))):
            driver = QueueDriver()
            for _ in range(steps):
                step(driver, chance)
                tally.steps += 1
            driver.settle()
    except BrokenPromiseError as broken:
        tally.broke(broken.kind, f"{broken} (seed {seed}, step {tally.steps})")
    tally.results = driver.counts.pop("results", 0)
    tally.crashes = driver.counts.pop("crashes", 0)
    tally.faults += driver.counts
    return tally


def drive_episodes(seeds: range) -> Tally:
    """Drive one queue after the other."""
    tally = Tally()
    for seed in seeds:
        tally.add(drive_episode(seed))
    return tally


def _tasks(seed: int, steps: int, deadline: float) -> Iterator[range]:
    episodes = -(-steps // EPISODE_STEPS)
    for start in count(seed, _EPISODES_PER_TASK):
        if start >= seed + episodes or time.monotonic() > deadline:
            return
        yield range(start, min(start + _EPISODES_PER_TASK, seed + episodes))


def drive(steps: int, *, seed: int = 0, processes: int = 1, seconds: float = float("inf")) -> Tally:
    """Drive as many queues as `steps` take, on several processes.

    Parameters
    ----------
    steps
        How many steps to take, rounded up to whole episodes.
    seed
        Seed of the first episode; the following ones count on.
    processes
        How many processes to use.
    seconds
        Take no further episodes after this time.
    """
    tally = Tally()
    deadline = time.monotonic() + seconds
    with ProcessPoolExecutor(processes) as pool:
        running = set()
        for task in _tasks(seed, steps, deadline):
            running.add(pool.submit(drive_episodes, task))
            while len(running) >= 2 * processes:
                done = next(iter(running))
                tally.add(done.result())
                running.discard(done)
        for done in running:
            tally.add(done.result())
    return tally
