# SPDX-License-Identifier: Apache-2.0
"""How far this machine's clock is from the server's. Leases need none; times in logs and histories do."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from email.utils import parsedate_to_datetime

_log = logging.getLogger(__name__)

MAX_SKEW_S = 30.0


def server_time(date_header: str | None, orthanc_now: str = "") -> dt.datetime | None:
    """Return the server's time from an HTTP Date, or from Orthanc's ``YYYYMMDDThhmmss`` (UTC), or None."""
    try:
        if date_header is not None:
            told = parsedate_to_datetime(date_header)
            return told.replace(tzinfo=told.tzinfo or dt.UTC)  # "-0000" is UTC of an unknown zone
        return dt.datetime.strptime(orthanc_now.strip(), "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        return None


def skew_warning(skew_s: float) -> str | None:
    """Return the sentence about a clock so many seconds ahead of the server's; None where it agrees."""
    if abs(skew_s) <= MAX_SKEW_S:
        return None
    return (
        f"This machine's clock differs from the server's by {skew_s:+.0f} s: set up NTP on both, else the "
        "times in logs and histories mislead."
    )


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class ServerClock:
    """Says in the log that the clocks differ: once, until they have agreed again.

    Parameters
    ----------
    now
        The time here, in UTC.
    """

    def __init__(self, now: Callable[[], dt.datetime] = _utc_now) -> None:
        self._now = now
        self._is_said = False

    def told(self, date_header: str | None) -> None:
        """Take the Date of an answer that has just come."""
        there = server_time(date_header)
        if there is None:
            return
        warning = skew_warning((self._now() - there).total_seconds())
        if warning is not None and not self._is_said:
            _log.warning(warning)
        self._is_said = warning is not None
