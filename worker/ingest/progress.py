# SPDX-License-Identifier: Apache-2.0
"""How far an ingest is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Stage(Enum):
    """The steps that take time."""

    PREPARE = "preparing the converter"
    CONVERT = "converting"
    LEVELS = "adding pyramid levels"
    UPLOAD = "storing in Orthanc"


@dataclass(frozen=True)
class Progress:
    """One step's state.

    Attributes
    ----------
    stage
        The step.
    done, total
        Tiles (CONVERT) or bytes (UPLOAD); both 0 where a step cannot tell.
    note
        A sentence worth showing, or empty.
    """

    stage: Stage
    done: int = 0
    total: int = 0
    note: str = ""


Report = Callable[[Progress], None]
"""Receives every change."""


def silent(_progress: Progress) -> None:
    """Report to nobody."""
