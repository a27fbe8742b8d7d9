# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long a request is likely to wait."""

from __future__ import annotations

import pytest

from orthanc_plugin.service.estimate import likely_wait


@pytest.mark.parametrize(
    ("ahead", "busy", "workers", "expected"),
    [
        (0, 0, 1, 0.0),  # an idle worker takes it at once
        (0, 1, 1, 30.0),  # one that is at work is half done
        (2, 1, 1, 150.0),
        (1, 1, 2, 15.0),  # the idle one takes the one ahead, this one waits for the first to be free
        (0, 1, 2, 0.0),
        (4, 2, 2, 135.0),
    ],
)
def test_the_wait_follows_from_what_is_ahead(ahead: int, busy: int, workers: int, expected: float) -> None:
    assert likely_wait(ahead, busy, workers, 60.0) == expected
