# SPDX-License-Identifier: Apache-2.0
"""The slide that the demo shows: the user's own, a real public one, or a drawn one that says what it is."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import requests

from .drawn_slide import write_drawn_slide
from .errors import WorkerError

_log = logging.getLogger(__name__)

NAME = "CMU-1-Small-Region.svs"
SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
SIZE = 1_938_955
URL = f"https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/{NAME}"
DRAWN_NAME = "drawn-no-real-tissue.tiff"

_BESIDE_PROJECT = Path(__file__).resolve().parents[2] / "shared" / "slides"
_TIMEOUT_S = (3.0, 10.0)
_OF_THE_PUBLIC_SLIDE = (
    "The demonstration model abstains on this slide, and should: it learnt from mouth tissue, notices that\n"
    "this tissue looks unlike that, and gives no answer instead of a wrong one. SLIDE=file analyses your own."
)


class DemoSlideError(WorkerError):
    """The user's slide cannot be shown."""


@dataclass(frozen=True)
class DemoSlide:
    """A slide to ingest.

    Attributes
    ----------
    path
        The file, or the folder of DICOM files.
    description
        What it is, for the user.
    mpp
        Micrometres per pixel to ingest it with, or None for what the file says.
    expectation
        What to make of the demonstration model's result on it, for the user; empty where nobody knows.
    """

    path: Path
    description: str
    mpp: float | None = None
    expectation: str = ""


def demo_slide(
    cache: Path,
    given: Path | None = None,
    *,
    mpp: float | None = None,
    beside: Path = _BESIDE_PROJECT,
    download: Callable[[Path], bool] | None = None,
) -> DemoSlide:
    """Choose the demo's slide.

    Parameters
    ----------
    cache
        Folder where a downloaded or drawn slide is kept for the next time.
    given
        The user's own slide, or None.
    mpp
        Micrometres per pixel of the user's slide, where its file does not say.
    beside
        Folder that may hold the public slide already.
    download
        Fetches the public slide into a path and tells whether it did; by default from OpenSlide's test data.

    Raises
    ------
    DemoSlideError
        If there is no such file as the user named.
    """
    if given is not None:
        if not given.exists():
            raise DemoSlideError(f"There is no slide {given}: check the path that SLIDE= names.")
        return DemoSlide(given.resolve(), f"your slide {given.name}", mpp)
    cache.mkdir(parents=True, exist_ok=True)
    cached = cache / NAME
    found = _first_genuine((cached, beside / NAME))
    if found is None and (download or download_public_slide)(cached) and is_genuine(cached):
        found = cached
    if found is not None:
        description = f"{NAME}: real H&E tissue, CC0, from OpenSlide's public test data"
        return DemoSlide(found, description, expectation=_OF_THE_PUBLIC_SLIDE)
    return _drawn(cache / DRAWN_NAME)


def _first_genuine(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if is_genuine(path)), None)


def is_genuine(path: Path) -> bool:
    """Tell whether a file is the public slide, to the last bit."""
    try:
        return path.stat().st_size == SIZE and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    except OSError:
        return False


def download_public_slide(target: Path) -> bool:
    """Fetch the public slide, within seconds or not at all.

    Parameters
    ----------
    target
        Where to put it; written whole or not at all.

    Returns
    -------
    bool
        Whether it is there now.
    """
    try:
        with requests.get(URL, timeout=_TIMEOUT_S, stream=True) as answer:
            answer.raise_for_status()
            data = b"".join(_at_most(answer.iter_content(1 << 16), SIZE))
    except (requests.RequestException, ValueError) as error:
        _log.info("The public slide cannot be downloaded (%s).", type(error).__name__)
        return False
    if hashlib.sha256(data).hexdigest() != SHA256:
        _log.warning("What %s serves is not the slide that the demo expects; it is not used.", URL)
        return False
    partial = target.with_suffix(".part")
    partial.write_bytes(data)
    partial.replace(target)
    return True


def _at_most(blocks: Iterable[bytes], limit: int) -> Iterable[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > limit:
            raise ValueError("too large")
        yield block


def _drawn(path: Path) -> DemoSlide:
    if not path.is_file():
        partial = path.with_suffix(".part")
        write_drawn_slide(partial)
        partial.replace(path)
    return DemoSlide(
        path,
        "a DRAWN picture of tissue, no real slide (no internet here): its result means nothing",
        expectation="Mind: the slide is a DRAWN picture, so this result shows the way and means nothing.",
    )
