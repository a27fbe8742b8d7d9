# SPDX-License-Identifier: AGPL-3.0-or-later
"""The seeded driver of the queue: what happens next, and how often which thing happens."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.support.queue_actors import DECISIONS, REPORTS, SLIDES, WORKERS
from tests.support.queue_driver import QueueDriver
from tests.support.queue_orthanc import READS_AND_WRITES

Action = Callable[[], None]
Choices = tuple[tuple[int, Action], ...]


def step(driver: QueueDriver, chance: random.Random) -> None:
    """Let one thing happen, and compare what memory says with what was promised."""
    _one_of(_all(driver, chance), chance)()
    driver.check()


def _one_of(choices: Choices, chance: random.Random) -> Action:
    actions = [action for _, action in choices]
    return chance.choices(actions, [weight for weight, _ in choices])[0]


def _all(driver: QueueDriver, chance: random.Random) -> Choices:
    return (
        *_of_people_and_workers(driver, chance),
        *_of_the_machine(driver, chance),
        *_of_slides(driver, chance),
        (3, lambda: _in_the_middle(driver, chance)),
        (1, lambda: _once_in_a_while(driver, chance)),
    )


def _of_people_and_workers(driver: QueueDriver, chance: random.Random) -> Choices:
    which = min(chance.randrange(12), chance.randrange(12))  # the latest leases are the lively ones
    coin, ahead, rarely = chance.random() < 0.5, chance.random() < 0.4, chance.random() < 0.2
    return (
        (14, lambda: driver.submit(which % SLIDES, chance.randrange(4), force=coin)),
        (8, lambda: driver.claim(which % WORKERS, repeat=rarely, prefetch=ahead)),
        (6, lambda: driver.report(which, "processing", prefetch=ahead)),
        (3, lambda: driver.report(which, chance.choice(REPORTS))),
        (6, lambda: driver.put(which, drawn_anew=rarely)),
        (8, lambda: driver.complete(which, files=coin, again=chance.random() < 0.3)),
        (8, lambda: driver.work(which % WORKERS)),
        (4, lambda: driver.fail(which, retryable=chance.random() < 0.7)),
        (6, lambda: driver.decide(chance.randrange(1000), chance.choice(tuple(DECISIONS)))),
        (10, lambda: driver.pass_time(chance.choice((0.1, 0.3, 1.1, 2.5)))),
        (4, lambda: driver.hear(latest=rarely)),
    )


def _of_the_machine(driver: QueueDriver, chance: random.Random) -> Choices:
    coin = chance.random() < 0.5
    return (
        (1, lambda: driver.shift_clock(chance.choice((-3600.0, -5.0, 5.0, 3600.0)))),
        (3, lambda: driver.refuse(chance.choice(READS_AND_WRITES), after=coin)),
        (1, driver.leave_in_doubt),
        (1, driver.refuse_file),
        (1, lambda: driver.fill_disk(chance.randrange(1, 8))),
        (3, lambda: driver.die(chance.randrange(1, 9), after=coin)),
        (1, driver.restart),
        (1, driver.settle),
    )


def _of_slides(driver: QueueDriver, chance: random.Random) -> Choices:
    slide, coin = chance.randrange(SLIDES), chance.random() < 0.5
    return (
        (3, lambda: driver.add_file(slide)),
        (1, lambda: driver.leave_label(slide)),
        (1, lambda: driver.delete(slide)),
        (5, lambda: driver.store(slide, changed=coin)),
        (1, lambda: driver.overwrite(slide, changed=coin)),
    )


def _in_the_middle(driver: QueueDriver, chance: random.Random) -> None:
    """Let something happen in the middle of what comes next."""
    calls, after = chance.randrange(1, chance.choice((13, 50))), chance.random() < 0.5
    what = chance.randrange(5)
    if what < 2:
        driver.interrupt(calls, _one_of(_of_slides(driver, chance), chance), after=after)
    elif what < 4:
        driver.meanwhile(calls, _one_of(_of_people_and_workers(driver, chance), chance), after=after)
    else:  # a file is sent again, another one by then
        driver.meanwhile(calls, lambda: driver.put(0, drawn_anew=True), after=after)


def _once_in_a_while(driver: QueueDriver, chance: random.Random) -> None:
    """Damage a value now and then: less is required of its slide from then on."""
    if chance.random() < 0.2:
        driver.damage(chance.randrange(SLIDES), archive=chance.random() < 0.5)
