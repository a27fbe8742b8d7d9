# SPDX-License-Identifier: Apache-2.0
"""The user's own slide, checked before anything is started for it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

from clam_core.arguments import micrometres
from worker.demo_slide import DemoSlide

from .errors import DemoError


def micrometres_of(text: str | None) -> float | None:
    """Return what MPP= says.

    Raises
    ------
    DemoError
        If it is no number of micrometres.
    """
    if text is None:
        return None
    try:
        return micrometres(text)
    except argparse.ArgumentTypeError as error:
        raise DemoError(f"MPP={text}: {error}.") from error


def checked(slide: DemoSlide, say: Callable[[str], None]) -> None:
    """See that a slide can be stored.

    Raises
    ------
    DemoError
        If it cannot; the sentence says what to do, in the words of `make demo`.
    """
    # wsidicom takes a second, which a demo of its own slide need not wait.
    from worker.ingest.check import check_slide  # noqa: PLC0415
    from worker.ingest.environment import converter_python  # noqa: PLC0415
    from worker.ingest.errors import IngestError  # noqa: PLC0415
    from worker.ingest.identity import SlideOptions  # noqa: PLC0415

    named = os.environ.get("CONVERTER_PYTHON")
    try:
        options = SlideOptions(mpp=slide.mpp)
        check_slide(
            slide.path,
            options,
            lambda: converter_python(Path(named) if named else None, lambda told: say(told.note)),
        )
    except IngestError as error:
        raise DemoError(in_words_of_make(str(error))) from error


def in_words_of_make(sentence: str) -> str:
    """Return a sentence about `pathology-worker ingest` as one about `make demo`."""
    return re.sub(r"--mpp (?=\d)", "MPP=", sentence).replace("--mpp", "MPP=")
