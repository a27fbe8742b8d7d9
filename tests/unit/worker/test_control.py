# SPDX-License-Identifier: Apache-2.0
"""What work and heartbeats tell each other about one request."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from worker.errors import JobStoppedError, StopReason
from worker.jobs.control import JobControl
from worker.jobs.turns import EncoderTurns
from worker.stages import STAGES, position_in


def test_a_lost_lease_ends_the_work() -> None:
    control = JobControl()
    assert control.stop(StopReason.LEASE_LOST)
    with pytest.raises(JobStoppedError):
        control.check()


@pytest.mark.parametrize("reason", [StopReason.LEASE_LOST, StopReason.HANDED_BACK])
def test_a_result_on_its_way_is_sent_to_its_end(reason: StopReason) -> None:
    control = JobControl()
    control.report_publishing()
    assert not control.stop(reason)
    control.report(position_in("publish", 0.5))


@pytest.mark.parametrize("reason", [StopReason.CANCELLED, StopReason.GONE])
def test_a_person_or_a_deleted_slide_ends_it_even_then(reason: StopReason) -> None:
    control = JobControl()
    control.report_publishing()
    assert control.stop(reason)


def test_the_first_reason_counts_and_work_that_is_over_is_not_stopped() -> None:
    control = JobControl()
    assert control.stop(StopReason.CANCELLED)
    assert not control.stop(StopReason.GONE)
    assert control.stop_reason is StopReason.CANCELLED
    finished = JobControl()
    finished.finish()
    assert not finished.stop(StopReason.CANCELLED)


def test_work_that_was_stopped_learns_it_with_its_next_report() -> None:
    control = JobControl()
    control.stop(StopReason.CANCELLED)
    with pytest.raises(JobStoppedError):
        control.report(position_in("encode", 0.5))
    with pytest.raises(JobStoppedError):
        control.report_publishing()


def test_a_slide_fetched_ahead_is_begun_with_the_first_stage_that_cannot_be_done_ahead() -> None:
    control = JobControl(prefetch=True)
    control.report(position_in("open", 0.5))
    assert control.prefetch
    control.report(position_in("encode", 0.0))
    assert not control.prefetch


def test_a_slide_that_was_claimed_in_its_turn_is_at_no_stage_one_that_an_idle_worker_may_have() -> None:
    control = JobControl()
    for stage in STAGES:
        control.report(position_in(stage, 0.5))
        assert not control.prefetch


def test_a_slide_fetched_ahead_is_begun_as_soon_as_it_has_the_encoders_place() -> None:
    control = JobControl(prefetch=True)
    with EncoderTurns().take(control):
        assert not control.prefetch, "an idle worker would encode it, too, until the first patches are done"


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        (lambda control: control.report(position_in("encode", 0.0)), True),
        (lambda control: control.stop(StopReason.CANCELLED), False),
        (lambda control: control.finish(), False),
    ],
    ids=["a new stage", "a stop", "the end"],
)
def test_a_heartbeat_that_waits_is_woken_at_once(
    change: Callable[[JobControl], object], *, goes_on: bool
) -> None:
    control, answers = JobControl(), list[bool]()
    stage = control.position.stage
    waiting = threading.Thread(target=lambda: answers.append(control.wait_for_change(30, stage)), daemon=True)
    waiting.start()
    waiting.join(0.05)
    change(control)
    waiting.join(5)
    assert answers == [goes_on]
