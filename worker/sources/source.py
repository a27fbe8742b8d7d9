# SPDX-License-Identifier: Apache-2.0
"""What a slide source is."""

from __future__ import annotations

from typing import Protocol

from clam_core.slides import Slide
from worker.contract import Claim


class SlideSource(Protocol):
    """A way to a claimed request's slide."""

    @property
    def name(self) -> str:
        """Name for the log."""
        ...

    def open(self, claim: Claim) -> Slide:
        """Open the slide.

        Raises
        ------
        RangesMissingError
            If the server does not offer this way: the next source may be asked.
        SlideError
            If the slide cannot be read this way.
        """
        ...
