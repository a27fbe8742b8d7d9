# SPDX-License-Identifier: Apache-2.0
"""What a person reads about the rate is true: measured over the last half minute, nothing said too early."""

import pytest

from worker.jobs.pace import Pace, in_words


class Clock:
    """Moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def test_nothing_is_said_before_two_measurements() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    assert pace.per_second is None
    pace.note(64)
    assert pace.seconds_for(10) is None


def test_the_rest_is_estimated_by_an_earlier_slide_until_this_one_is_measured() -> None:
    clock = Clock()
    pace = Pace(20.0, clock)
    pace.note(0)
    assert pace.seconds_for(100) == 5
    assert pace.per_second is None, "that is no measurement"
    clock.advance(2)
    pace.note(20)
    assert pace.seconds_for(100) == 10


def test_rate_and_rest_follow_the_last_half_minute() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    for done in range(0, 1000, 10):
        pace.note(done)
        clock.advance(10)
    for done in range(1000, 1500, 50):
        pace.note(done)
        clock.advance(5)
    assert pace.per_second == pytest.approx(10)
    assert pace.seconds_for(600) == pytest.approx(60)


def test_what_was_known_before_is_no_measure_of_what_is_to_be_encoded() -> None:
    clock = Clock()
    pace = Pace(clock=clock)
    pace.note(0)
    clock.advance(0.01)
    pace.note(5000)
    pace.restart()
    pace.note(5064)
    clock.advance(2)
    pace.note(5128)
    assert pace.per_second == pytest.approx(32)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (170, "2 min 50 s"), (7384, "2 h 3 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
