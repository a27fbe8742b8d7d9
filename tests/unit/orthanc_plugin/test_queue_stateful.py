# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whatever happens, in any order: nothing accepted is lost, nothing done twice, nothing stale counts."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.queue_driver import (
    DECISIONS,
    READS_AND_WRITES,
    REPORTS,
    SLIDES,
    WORKERS,
    QueueDriver,
    step,
)

SLIDE = st.integers(0, SLIDES - 1)
WHO = st.integers(0, WORKERS - 1)
WHICH = st.integers(0, 11)
BOOL = st.booleans()


class QueueMachine(RuleBasedStateMachine):
    """Every action of `QueueDriver` in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = QueueDriver()

    @rule(slide=SLIDE, parameter=st.integers(0, 1), force=BOOL)
    def submit(self, slide: int, parameter: int, force: bool) -> None:
        self.driver.submit(slide, parameter, force=force)

    @rule(worker=WHO, repeat=BOOL, prefetch=BOOL)
    def claim(self, worker: int, repeat: bool, prefetch: bool) -> None:
        self.driver.claim(worker, repeat=repeat, prefetch=prefetch)

    @rule(which=WHICH, status=st.sampled_from(REPORTS), prefetch=BOOL)
    def report(self, which: int, status: str, prefetch: bool) -> None:
        self.driver.report(which, status, prefetch=prefetch)

    @rule(which=WHICH)
    def put(self, which: int) -> None:
        self.driver.put(which)

    @rule(which=WHICH, picture=BOOL, again=BOOL)
    def complete(self, which: int, picture: bool, again: bool) -> None:
        self.driver.complete(which, picture=picture, again=again)

    @rule(which=WHICH, retryable=BOOL)
    def fail(self, which: int, retryable: bool) -> None:
        self.driver.fail(which, retryable=retryable)

    @rule(which=WHICH, what=st.sampled_from(DECISIONS))
    def decide(self, which: int, what: str) -> None:
        self.driver.decide(which, what)

    @rule(seconds=st.sampled_from((0.3, 1.1, 2.5)))
    def pass_time(self, seconds: float) -> None:
        self.driver.pass_time(seconds)

    @rule(seconds=st.sampled_from((-3600.0, -5.0, 5.0, 3600.0)))
    def shift_clock(self, seconds: float) -> None:
        self.driver.shift_clock(seconds)

    @rule(slide=SLIDE)
    def overwrite(self, slide: int) -> None:
        self.driver.overwrite(slide)

    @rule(slide=SLIDE)
    def leave_label(self, slide: int) -> None:
        self.driver.leave_label(slide)

    @rule(operation=st.sampled_from(READS_AND_WRITES), after=BOOL)
    def refuse(self, operation: str, after: bool) -> None:
        self.driver.refuse(operation, after=after)

    @rule(writes=st.integers(1, 4), after=BOOL)
    def die(self, writes: int, after: bool) -> None:
        self.driver.die(writes, after=after)

    @rule()
    def restart(self) -> None:
        self.driver.restart()

    @invariant()
    def promises_hold(self) -> None:
        self.driver.check()

    def teardown(self) -> None:
        self.driver.check_settled()


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(4))
def test_a_long_seeded_run_keeps_every_promise(seed: int) -> None:
    chance = random.Random(seed)
    driver = QueueDriver()
    for _ in range(500):
        step(driver, chance)
    driver.check_settled()
    assert driver.promises.results, "the run delivered nothing, so it shows nothing"
