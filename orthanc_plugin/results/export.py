# SPDX-License-Identifier: AGPL-3.0-or-later
"""A result's patches for other programs: GeoJSON as QuPath imports it, and CSV."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Optional

from .attention_file import Patches

_COLUMNS = ("x", "y", "width", "height", "attention", "percentile")
_ANNOTATION_CLASS = {"name": "AI attention", "color": [0, 229, 255]}
_END_OF_LINE = "\r\n"  # RFC 4180
_BLOCK = 1000
"""Patches that are text at the same time, before their bytes are written."""
_LARGEST = 2**53  # what a JSON number holds exactly everywhere

Size = Optional[tuple[float, float]]
"""Width and height of the slide in level-0 pixels, or None where the result does not say."""

_Box = tuple[float, float, float, float]
"""Left, top, right and bottom in level-0 pixels."""


def csv(patches: Patches, slide_size: Size) -> bytes:
    """Return every patch as a line (RFC 4180, ASCII), in the order in which the worker laid them.

    Parameters
    ----------
    patches
        Of the result.
    slide_size
        Patches over the slide's edge are cut off there; those beyond it are left out.
    """
    return _joined(",".join(_COLUMNS) + _END_OF_LINE, _lines(patches, slide_size), "", "")


def _lines(patches: Patches, slide_size: Size) -> Iterator[str]:
    for (left, top, right, bottom), attention, percentile in _boxes(patches, slide_size):
        box = f"{left:.15g},{top:.15g},{right - left:.15g},{bottom - top:.15g}"
        yield f"{box},{attention:.6g},{percentile:.6g}{_END_OF_LINE}"


def geojson(
    patches: Patches, slide_size: Size, top_patches: Sequence[Any], marks: Mapping[str, str]
) -> bytes:
    """Return the patches as a feature collection of QuPath's objects (ASCII).

    Every patch is a ``tile`` with its attention as measurements (for QuPath's measurement maps); the most
    attended ones lie over them once more as named ``annotation`` objects, which a person sees and jumps to.

    Parameters
    ----------
    patches, slide_size
        As for `csv`.
    top_patches
        The result's own list; what is no patch in it is passed over.
    marks
        What the annotations say of where they come from (QuPath's metadata).
    """
    features = chain(_annotations(slide_size, top_patches, marks), _tiles(patches, slide_size))
    return _joined('{"type":"FeatureCollection","features":[\n', features, ",\n", "\n]}\n")


def _joined(head: str, parts: Iterator[str], between: str, end: str) -> bytes:
    """Return parts as one text, which is held once: that of the largest slides is 125 MB."""
    content = io.BytesIO()
    content.write(head.encode("ascii"))
    before = ""
    while block := list(islice(parts, _BLOCK)):
        content.write((before + between.join(block)).encode("ascii"))
        before = between
    content.write(end.encode("ascii"))
    return content.getvalue()


def _annotations(slide_size: Size, top_patches: Sequence[Any], marks: Mapping[str, str]) -> Iterator[str]:
    for rank, patch in enumerate(top_patches, 1):
        if not (
            isinstance(patch, Mapping) and all(_number(patch.get(name)) is not None for name in _COLUMNS)
        ):
            continue
        left, top = patch["x"], patch["y"]
        box = _within((left, top, left + patch["width"], top + patch["height"]), slide_size)
        if box is None:
            continue
        properties = {
            "objectType": "annotation",
            "name": f"Patch {rank}",
            "classification": _ANNOTATION_CLASS,
            "measurements": {"Attention": patch["attention"], "Attention percentile": patch["percentile"]},
            "metadata": dict(marks),
        }
        yield _feature(box, json.dumps(properties))


def _tiles(patches: Patches, slide_size: Size) -> Iterator[str]:
    for box, attention, percentile in _boxes(patches, slide_size):
        measured = f'"Attention":{attention:.6g},"Attention percentile":{percentile:.6g}'
        yield _feature(box, f'{{"objectType":"tile","measurements":{{{measured}}}}}')


def _feature(box: _Box, properties: str) -> str:
    left, top, right, bottom = (f"{side:.15g}" for side in box)
    ring = f"[[{left},{top}],[{right},{top}],[{right},{bottom}],[{left},{bottom}],[{left},{top}]]"
    geometry = f'{{"type":"Polygon","coordinates":[{ring}]}}'
    return f'{{"type":"Feature","geometry":{geometry},"properties":{properties}}}'


def _boxes(patches: Patches, slide_size: Size) -> Iterator[tuple[_Box, float, float]]:
    corners = zip(patches.corners[::2], patches.corners[1::2])
    for (x, y), attention, percentile in zip(corners, patches.attention, patches.percentile):
        box = _within((x, y, x + patches.width, y + patches.height), slide_size)
        if box is not None:
            yield box, attention, percentile


def _within(box: _Box, slide_size: Size) -> _Box | None:
    """Return the part of a box that lies on the slide, or None where none does."""
    left, top, right, bottom = box
    width, height = slide_size or (right, bottom)
    left, top, right, bottom = max(0, left), max(0, top), min(width, right), min(height, bottom)
    return (left, top, right, bottom) if left < right < math.inf and top < bottom < math.inf else None


def size_of(slide: Any) -> Size:
    """Return the slide's size out of a result's ``slide``, which a worker wrote."""
    if not isinstance(slide, Mapping):
        return None
    width, height = _number(slide.get("width")), _number(slide.get("height"))
    return None if width is None or height is None else (width, height)


def _number(value: Any) -> float | None:
    """Return a value that is a number of pixels, a share or a percentile, else None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) <= _LARGEST else None
