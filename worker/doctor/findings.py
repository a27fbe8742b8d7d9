# SPDX-License-Identifier: Apache-2.0
"""What a check of the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes
    ----------
    check
        Its name.
    verdict
        How it ended.
    message
        What was found, and the fix where one is needed.
    """

    check: str
    verdict: Verdict
    message: str
