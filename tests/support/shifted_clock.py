# SPDX-License-Identifier: Apache-2.0
"""The wall clock of a process, set from outside while it runs; time itself goes on (libfaketime)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class ShiftedClock:
    """Whoever is started with `environment` sees the clock that `shift` sets.

    Parameters
    ----------
    file
        Where the shift is written; it is read anew at every look at the clock.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.shift(0)

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for the process; the monotonic clock stays true."""
        return {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def shift(self, seconds: float) -> None:
        """Set the clock so many seconds ahead of the machine's, or behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.0f}\n", "ascii")
        new.replace(self._file)


def _library() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise RuntimeError("Shifting a clock needs libfaketime: apt-get install libfaketime")
    return found[0]
