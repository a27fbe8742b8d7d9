# SPDX-License-Identifier: Apache-2.0
"""What work and heartbeats tell each other about one request."""

from __future__ import annotations

import pytest

from worker.control import JobControl
from worker.errors import JobStoppedError, StopReason
from worker.stages import position_in


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
