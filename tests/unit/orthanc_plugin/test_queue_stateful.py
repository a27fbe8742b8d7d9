# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whatever happens, in any order: nothing accepted is lost, nothing done twice, nothing stale counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.faults.drive_queue import drive_episode
from tests.support.queue_actors import DECISIONS, REPORTS, SLIDES, WORKERS
from tests.support.queue_driver import QueueDriver, small_archive
from tests.support.queue_orthanc import READS_AND_WRITES

SLIDE = st.integers(0, SLIDES - 1)
WHO = st.integers(0, WORKERS - 1)
WHICH = st.integers(0, 11)
BOOL = st.booleans()
CALLS = st.integers(1, 12)
"""Looks at Orthanc and writes to it, from now."""

OF_SLIDES: tuple[Callable[[QueueDriver], None], ...] = (
    lambda driver: driver.delete(0),
    lambda driver: driver.store(0, changed=False),
    lambda driver: driver.overwrite(0, changed=True),
    lambda driver: driver.add_file(0),
)
OF_OTHERS: tuple[Callable[[QueueDriver], None], ...] = (
    lambda driver: driver.put(0, drawn_anew=True),
    lambda driver: driver.complete(0, files=True, again=True),
    lambda driver: driver.claim(1, repeat=False),
    lambda driver: driver.decide(0, "cancel"),
    lambda driver: driver.hear(),
    lambda driver: driver.pass_time(2.5),
)


class QueueMachine(RuleBasedStateMachine):
    """Every action of `QueueDriver` in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = small_archive()
        self.limits.__enter__()
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

    @rule(which=WHICH, drawn_anew=BOOL)
    def put(self, which: int, drawn_anew: bool) -> None:
        self.driver.put(which, drawn_anew=drawn_anew)

    @rule(which=WHICH, files=BOOL, again=BOOL)
    def complete(self, which: int, files: bool, again: bool) -> None:
        self.driver.complete(which, files=files, again=again)

    @rule(worker=WHO)
    def work(self, worker: int) -> None:
        self.driver.work(worker)

    @rule(which=WHICH, retryable=BOOL)
    def fail(self, which: int, retryable: bool) -> None:
        self.driver.fail(which, retryable=retryable)

    @rule(which=WHICH, what=st.sampled_from(sorted(DECISIONS)))
    def decide(self, which: int, what: str) -> None:
        self.driver.decide(which, what)

    @rule(seconds=st.sampled_from((0.3, 1.1, 2.5)))
    def pass_time(self, seconds: float) -> None:
        self.driver.pass_time(seconds)

    @rule(seconds=st.sampled_from((-3600.0, -5.0, 5.0, 3600.0)))
    def shift_clock(self, seconds: float) -> None:
        self.driver.shift_clock(seconds)

    @rule(slide=SLIDE)
    def add_file(self, slide: int) -> None:
        self.driver.add_file(slide)

    @rule(slide=SLIDE)
    def leave_label(self, slide: int) -> None:
        self.driver.leave_label(slide)

    @rule(slide=SLIDE)
    def delete(self, slide: int) -> None:
        self.driver.delete(slide)

    @rule(slide=SLIDE, changed=BOOL)
    def store(self, slide: int, changed: bool) -> None:
        self.driver.store(slide, changed=changed)

    @rule(slide=SLIDE, changed=BOOL)
    def overwrite(self, slide: int, changed: bool) -> None:
        self.driver.overwrite(slide, changed=changed)

    @rule(slide=SLIDE, archive=BOOL)
    def damage(self, slide: int, archive: bool) -> None:
        self.driver.damage(slide, archive=archive)

    @rule(latest=BOOL)
    def hear(self, latest: bool) -> None:
        self.driver.hear(latest=latest)

    @rule(operation=st.sampled_from(READS_AND_WRITES), after=BOOL)
    def refuse(self, operation: str, after: bool) -> None:
        self.driver.refuse(operation, after=after)

    @rule()
    def refuse_file(self) -> None:
        self.driver.refuse_file()

    @rule(writes=st.integers(1, 5))
    def fill_disk(self, writes: int) -> None:
        self.driver.fill_disk(writes)

    @rule(calls=CALLS, after=BOOL)
    def die(self, calls: int, after: bool) -> None:
        self.driver.die(calls, after=after)

    @rule(calls=CALLS, act=st.sampled_from(OF_SLIDES), after=BOOL)
    def interrupt(self, calls: int, act: Callable[[QueueDriver], None], after: bool) -> None:
        self.driver.interrupt(calls, lambda: act(self.driver), after=after)

    @rule(calls=CALLS, act=st.sampled_from(OF_OTHERS), after=BOOL)
    def meanwhile(self, calls: int, act: Callable[[QueueDriver], None], after: bool) -> None:
        self.driver.meanwhile(calls, lambda: act(self.driver), after=after)

    @rule()
    def restart(self) -> None:
        self.driver.restart()

    @invariant()
    def promises_hold(self) -> None:
        self.driver.check()

    def teardown(self) -> None:
        try:
            self.driver.settle()
        finally:
            self.limits.__exit__(None, None, None)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seed", range(4))
def test_a_long_seeded_run_keeps_every_promise(seed: int) -> None:
    run = drive_episode(seed, 500)
    assert not run.findings
    assert run.results, "the run delivered nothing, so it shows nothing"
